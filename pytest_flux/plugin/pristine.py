"""Restore an instance that several tests share to the state it had before a test, and name what the test changed.

The problem: starting an instance takes longer than most tests, so users want to share one among the tests of a module
or session; then one test's jobs, keys or drained nodes reach the next test, which fails far from the cause. Other
plugins either start anew for each test, or leave the cleaning to the user.

Three ways were open. Snapshots of the state on disk would restore everything, but a running broker does not load one.
Watching what a test does would need a hook in every service. We compare instead: a `Baseline` asks all services for
their state (`Facts`) when the instance is fresh, and asks again after each test. Each difference is a leak; it is
reported with its test and undone with the service's own request, so real Flux and the embedded broker need the same
code.

What must stay true:

* The look after a test that has changed nothing is cheap: all questions are sent before the first answer is read, and
  of the KVS only the root reference is compared. Its content is read only if the reference differs.
* KVS entries are content-addressed (RFC 10), so putting back an entry of the root directory restores all below it.
* Inactive jobs are not leaks, for every test leaves some; they are purged, because lists would show them to the next.
* After a restoration the state is compared once more. If something could not be restored, or a broker has died, or
  rank 0 does not answer, the instance is *broken*, and the next test gets a new one. A wrong state never stays.
* Services that an instance does not have are no error: what they would answer is missing before and after.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.treeobj import decode_treeobj

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flux.client import Flux
    from pytest_flux.client.connection import Rpc
    from pytest_flux.instance.flux_instance import FluxInstance

_PATIENCE = 10.0
_KILL_PATIENCE = 2.0
_INTERVAL = 0.005
_BATCH = 100
_IMMUTABLE = 1
# Root keys that services write. Their state is compared through the services.
_SERVICE_KEYS = frozenset({"admin", "checkpoint", "job", "modprobe", "resource"})

# Tree objects (RFC 11) as JSON, which can be compared.
Entries = dict[str, dict[str, Any]]


class Facts:
    """The state of an instance at one moment: everything that a test may have changed."""

    def __init__(self) -> None:
        self.attributes: dict[str, str] = {}
        self.processes: dict[int, dict[int, str]] = {}
        self.config: dict[str, Any] | None = None
        self.modules: frozenset[str] = frozenset()
        self.namespaces: frozenset[str] = frozenset()
        self.root: str | None = None
        self.jobs: dict[int, dict[str, Any]] = {}
        self.inactive = 0
        self.queues: dict[str, dict[str, Any]] = {}
        self.drains: dict[str, str] = {}
        self.health = "full"


class Inquiry:
    """Asks an instance of ``size`` brokers for its facts. All requests are sent before the first answer is read."""

    def __init__(self, client: Flux, size: int, timeout: float) -> None:
        self._client = client
        self._size = size
        self._timeout = timeout
        self._mutable: list[str] | None = None
        self._queues: list[str] | None = None
        self._absent: set[str] = set()

    def ask(self) -> Facts:
        """Ask for the facts. Raises FluxError or OSError if rank 0 does not answer."""
        if self._mutable is None:
            self._learn()
        assert self._mutable is not None
        simple = {topic: self._send(topic, payload) for topic, payload in _QUESTIONS.items()}
        values = {name: self._client.rpc("attr.get", {"name": name}, nodeid=0) for name in self._mutable}
        lists = {rank: self._client.rpc("rexec.list", {}, nodeid=rank) for rank in range(self._size)}
        queues = {name: self._send("job-manager.queue-status", _queue(name)) for name in self._queues or []}
        answers = {topic: self._receive(rpc) for topic, rpc in simple.items()}
        facts = _read(answers)
        known = set(answers["attr.list"].get("names", ()))
        facts.attributes = {
            name: str(self._receive(rpc).get("value")) for name, rpc in values.items() if name in known
        }
        facts.attributes.update(dict.fromkeys(known - values.keys() - self._fixed, "?"))
        for rank, rpc in lists.items():
            procs = self._receive(rpc).get("procs", ())
            facts.processes[rank] = {
                process["pid"]: process["cmd"] for process in procs if not _is_of_a_service(process["cmd"])
            }
        facts.queues = {name: self._receive(rpc) for name, rpc in queues.items()}
        return facts

    def _learn(self) -> None:
        """Find the attributes that can change, and the queues."""
        names = list(self._client.rpc("attr.list", nodeid=0).get(self._timeout)["names"])
        rpcs = [(name, self._client.rpc("attr.get", {"name": name}, nodeid=0)) for name in names]
        answers = [(name, self._receive(rpc)) for name, rpc in rpcs]
        self._mutable = [name for name, answer in answers if answer and not answer["flags"] & _IMMUTABLE]
        self._fixed = set(names) - set(self._mutable)
        rpc = self._send("job-manager.queue-list", {})
        answer = self._receive(rpc)
        self._queues = [*answer["queues"]] or [""] if "queues" in answer else []

    def entries(self) -> Entries:
        """The entries of the KVS root directory, as stored, without the keys of services."""
        from pytest_flux.client.kvs import Kvs

        found = Kvs(self._client).ls()
        return {name: entry.json() for name, entry in found.items() if name not in _SERVICE_KEYS}

    def _send(self, topic: str, payload: Mapping[str, Any]) -> Rpc | None:
        if topic in self._absent:
            return None
        return self._client.rpc(topic, dict(payload), nodeid=0)

    def _receive(self, rpc: Rpc | None) -> dict[str, Any]:
        if rpc is None:
            return {}
        try:
            return rpc.get(self._timeout)
        except FluxError as error:
            # ENOSYS: no such service. EHOSTUNREACH: the broker is down, which `health` shows.
            if error.errnum == errno.ENOSYS:
                self._absent.add(rpc.topic)
            elif error.errnum not in (errno.ENOENT, errno.EHOSTUNREACH, errno.EINVAL):
                raise
            return {}


_QUESTIONS: dict[str, dict[str, Any]] = {
    "attr.list": {},
    "config.get": {},
    "module.list": {},
    "kvs.getroot": {"namespace": "primary", "flags": 0},
    "kvs.namespace-list": {},
    "job-manager.list": {"max_entries": 0},
    "job-manager.stats-get": {},
    "resource.status": {},
    "overlay.health": {},
}


def _is_of_a_service(command: str) -> bool:
    """Whether a real Flux has started this process for itself: job shells, and helpers of job-ingest."""
    return command.startswith("flux job-") or command.rpartition("/")[2] in ("flux-shell", "flux-imp")


def _queue(name: str) -> dict[str, str]:
    return {"name": name} if name else {}


def _read(answers: Mapping[str, dict[str, Any]]) -> Facts:
    facts = Facts()
    facts.config = answers["config.get"]
    facts.modules = frozenset(module["name"] for module in answers["module.list"].get("mods", ()))
    facts.root = answers["kvs.getroot"].get("rootref")
    spaces = answers["kvs.namespace-list"].get("namespaces", ())
    # The namespaces of jobs come and go with the jobs.
    names = (str(space["namespace"]) for space in spaces)
    facts.namespaces = frozenset(name for name in names if not name.startswith("job-"))
    facts.jobs = {job["id"]: job for job in answers["job-manager.list"].get("jobs", ())}
    facts.inactive = answers["job-manager.stats-get"].get("inactive_jobs", 0)
    for ranks, drain in answers["resource.status"].get("drain", {}).items():
        facts.drains.update(dict.fromkeys(_ranks(ranks), str(drain.get("reason", ""))))
    facts.health = str(answers["overlay.health"].get("status", "full"))
    return facts


def _ranks(idset: str) -> list[str]:
    from pytest_flux.protocol.idset import decode_idset

    return [str(rank) for rank in decode_idset(idset)]


class Verdict:
    """What a test has left behind, a line for each thing, and why the instance is broken, if it is."""

    def __init__(self) -> None:
        self.leaks: list[str] = []
        self.broken = ""


class Baseline:
    """The state of an instance before a test: as it is on creation, or as it was when ``path`` was written.

    Raises FluxError or OSError, and ValueError if the file was not written by :meth:`save`.
    """

    def __init__(self, instance: FluxInstance, path: str | None = None) -> None:
        self._instance = instance
        self._inquiry = Inquiry(instance.client, instance.size, _PATIENCE)
        if path is None:
            self._facts = self._inquiry.ask()
            self._entries: Entries = self._inquiry.entries() if self._facts.root is not None else {}
        else:
            self._facts, self._entries = _load(path)
        self._dead = instance.dead_brokers()

    def save(self, path: str) -> None:
        """Write the state to a file, for another process that will use the instance."""
        values = {
            **vars(self._facts),
            "modules": sorted(self._facts.modules),
            "namespaces": sorted(self._facts.namespaces),
        }
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump({"facts": values, "entries": self._entries}, file)
        os.replace(f"{path}.new", path)

    def check(self) -> Verdict:
        """Compare the state with the baseline, and restore what can be restored."""
        verdict = Verdict()
        self._instance.await_killed(_KILL_PATIENCE)
        dead = {rank: code for rank, code in self._instance.dead_brokers().items() if rank not in self._dead}
        if dead:
            verdict.leaks = [f"broker {rank} has ended with exit code {dead[rank]}" for rank in sorted(dead)]
            verdict.broken = verdict.leaks[0]
            return verdict
        try:
            self._resume(verdict.leaks)
            self._compare(verdict)
        except (FluxError, OSError) as error:
            verdict.broken = f"the instance does not answer: {error}"
            verdict.leaks.append(verdict.broken)
        return verdict

    def _resume(self, leaks: list[str]) -> None:
        for rank in sorted(self._instance.suspended):
            leaks.append(f"broker {rank}, which was stopped (SIGSTOP)")
            self._instance.brokers[rank].cont()

    def _compare(self, verdict: Verdict) -> None:
        facts = self._inquiry.ask()
        if facts.health != self._facts.health:
            verdict.broken = f"the overlay is {facts.health}"
            verdict.leaks.append(verdict.broken)
            return
        restoration = _Restoration(self._instance, self._facts, facts, verdict.leaks)
        restoration.run()
        entries = self._entries
        if facts.root is not None and (facts.root != self._facts.root or restoration.changed):
            entries = self._restore_keys(verdict.leaks)
        if verdict.leaks or restoration.changed:
            now = self._inquiry.ask()
            verdict.broken = _difference(self._facts, now, verdict.leaks)
            self._facts.root = now.root
        else:
            self._facts.root = facts.root
        self._entries = entries
        for rank in range(self._instance.size):
            self._instance.client.post("log.clear", {}, rank)

    def _restore_keys(self, leaks: list[str]) -> Entries:
        """Restore the entries of the root directory, and with each all keys below it."""
        before, now = self._entries, self._inquiry.entries()
        if before == now:
            return before
        transaction = self._instance.kvs.transaction()
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) == now.get(name):
                continue
            if name not in before:
                leaks.append(f"KVS key {name}")
                transaction.unlink(name)
            else:
                leaks.append(f"KVS key {name} {'changed' if name in now else 'removed'}")
                transaction.put_entry(name, decode_treeobj(before[name]))
        transaction.commit()
        return before


def _load(path: str) -> tuple[Facts, Entries]:
    """Read the file that Baseline.save has written. Raises OSError, ValueError."""
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    facts = Facts()
    vars(facts).update(values["facts"])
    facts.modules, facts.namespaces = frozenset(facts.modules), frozenset(facts.namespaces)
    facts.jobs = {int(jobid): job for jobid, job in facts.jobs.items()}
    facts.processes = {
        int(rank): {int(pid): command for pid, command in processes.items()}
        for rank, processes in facts.processes.items()
    }
    return facts, values["entries"]


def _difference(before: Facts, now: Facts, leaks: list[str]) -> str:
    """Name the first thing that was not restored; '' if all was."""
    for name in ("attributes", "config", "modules", "namespaces", "queues", "drains", "processes"):
        if getattr(before, name) != getattr(now, name):
            return f"{name} could not be put back ({'; '.join(leaks)})"
    return "jobs are still active" if now.jobs.keys() - before.jobs.keys() else ""


class _Restoration:
    """Undoes the differences between two facts. Each method adds what it finds to the leaks, then undoes it."""

    def __init__(self, instance: FluxInstance, before: Facts, now: Facts, leaks: list[str]) -> None:
        self.changed = False
        self._instance = instance
        self._client = instance.client
        self._before = before
        self._now = now
        self._leaks = leaks

    def run(self) -> None:
        self._end_jobs()
        self._end_processes()
        self._restore_attributes()
        self._restore_services()

    def _rpc(self, topic: str, payload: dict[str, object], rank: int = 0) -> None:
        try:
            self._client.rpc(topic, payload, nodeid=rank).get(_PATIENCE)
        except FluxError as error:
            # ESRCH: it has ended by itself, or with its job.
            if error.errnum != errno.ESRCH:
                self._leaks.append(f"({topic}: {error})")

    def _end_jobs(self) -> None:
        from pytest_flux.protocol.fluid import f58

        jobs = [jobid for jobid in self._now.jobs if jobid not in self._before.jobs]
        if jobs:
            # In a stopped queue they cannot end.
            self._restore_queues()
        for jobid in jobs:
            self._leaks.append(f"job {f58(jobid)}, which is still active")
            self._rpc("job-manager.raise", {"id": jobid, "type": "cancel", "severity": 0})
        deadline = time.monotonic() + _PATIENCE
        for jobid in jobs:
            self._client.jobs.result(jobid, max(deadline - time.monotonic(), 0))
        # Inactive jobs are no leak, but the next test would see them in its lists.
        if jobs or self._now.inactive > self._before.inactive:
            self.changed = True
            self._purge()

    def _purge(self) -> None:
        request = {"age_limit": -1.0, "num_limit": self._before.inactive, "batch": _BATCH, "force": True}
        while self._client.rpc("job-manager.purge", request, nodeid=0).get(_PATIENCE).get("count", 0) >= _BATCH:
            pass

    def _end_processes(self) -> None:
        for rank, processes in self._now.processes.items():
            leaked = processes.keys() - self._before.processes.get(rank, {}).keys()
            for pid in sorted(leaked):
                self._leaks.append(f"process {processes[pid]} (pid {pid}) on rank {rank}")
                self._rpc("rexec.kill", {"pid": pid, "signum": int(signal.SIGKILL)}, rank)
            deadline = time.monotonic() + _PATIENCE
            while leaked and time.monotonic() < deadline:
                listed = self._client.rpc("rexec.list", {}, nodeid=rank).get(_PATIENCE)["procs"]
                leaked &= {process["pid"] for process in listed if process.get("state") != "Z"}
                # No event reports the end of a background process.
                time.sleep(_INTERVAL if leaked else 0)

    def _restore_attributes(self) -> None:
        before, now = self._before.attributes, self._now.attributes
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) == now.get(name):
                continue
            if name not in before:
                self._leaks.append(f"attribute {name}")
                self._rpc("attr.rm", {"name": name})
            else:
                self._leaks.append(f"attribute {name}={now.get(name)} (was {before[name]})")
                if name == "clock.mode":
                    # All ranks must learn of it.
                    self._rpc("clock.mode", {"mode": before[name]})
                else:
                    self._rpc("attr.set", {"name": name, "value": before[name]})

    def _restore_services(self) -> None:
        before, now = self._before, self._now
        for name in sorted(now.namespaces - before.namespaces):
            self._leaks.append(f"KVS namespace {name}")
            self._rpc("kvs.namespace-remove", {"namespace": name})
        self._restore_queues()
        for rank in sorted(now.drains.keys() - before.drains.keys(), key=int):
            self._leaks.append(f"drain of rank {rank} ({now.drains[rank]})")
            self._rpc("resource.undrain", {"targets": rank})
        for rank in sorted(before.drains.keys() - now.drains.keys(), key=int):
            self._leaks.append(f"rank {rank} not drained any more")
            self._rpc("resource.drain", {"targets": rank, "reason": before.drains[rank]})
        if before.config != now.config:
            self._leaks.append("configuration")
            self._rpc("config.load", dict(before.config or {}))
        for name in sorted(now.modules - before.modules):
            self._leaks.append(f"module {name}")
            self._rpc("module.remove", {"name": name})
        self._leaks += [f"module {name} removed" for name in sorted(before.modules - now.modules)]

    def _restore_queues(self) -> None:
        for name, before in self._before.queues.items():
            now = self._now.queues.get(name, before)
            where = {"name": name, "all": False} if name else {"all": True}
            for key, topic, word in (
                ("enable", "job-manager.queue-enable", "disabled"),
                ("start", "job-manager.queue-start", "stopped"),
            ):
                if now.get(key) != before.get(key):
                    self._leaks.append(f"queue {name or 'default'} {word if before.get(key) else 'in use'}")
                    self._rpc(topic, {**where, key: bool(before.get(key))})
            self._now.queues[name] = before
