"""Whether an instance is as it was before a test, and making it so again.

Jobs, keys, namespaces, queues, drains, attributes, configuration, modules and processes can be put back. A broker
that is gone, or whatever does not go back, costs a new instance.
"""

from __future__ import annotations

import errno
import signal
import time
from typing import TYPE_CHECKING

from pytest_flux.protocol.errors import FluxError
from pytest_flux.session.facts import Entries, Facts, Inquiry

if TYPE_CHECKING:
    from pytest_flux.instance import FluxInstance

_PATIENCE = 10.0
_KILL_PATIENCE = 2.0
_INTERVAL = 0.005
_BATCH = 100


class Verdict:
    """What a test has left behind, one line for each thing, and why the instance is of no use any more, if so."""

    def __init__(self) -> None:
        self.leaks: list[str] = []
        self.broken = ""


class Baseline:
    """How an instance is when nobody has used it. Taken on creation; raises FluxError or OSError."""

    def __init__(self, instance: FluxInstance) -> None:
        self._instance = instance
        self._inquiry = Inquiry(instance.client, instance.size, _PATIENCE)
        self._facts = self._inquiry.ask()
        self._entries: Entries = self._inquiry.entries() if self._facts.root is not None else {}
        self._expected = "full" if self._facts.health == "full" else self._facts.health
        self._dead = instance.dead_brokers()

    def check(self) -> Verdict:
        """Compare, and put back what can be."""
        verdict = Verdict()
        self._instance.await_killed(_KILL_PATIENCE)
        dead = {rank: code for rank, code in self._instance.dead_brokers().items() if rank not in self._dead}
        if dead:
            verdict.leaks = [f"broker {rank} has ended with exit code {dead[rank]}" for rank in sorted(dead)]
            verdict.broken = verdict.leaks[0]
            return verdict
        try:
            self._let_go_on(verdict.leaks)
            self._look(verdict)
        except (FluxError, OSError) as error:
            verdict.broken = f"the instance does not answer: {error}"
            verdict.leaks.append(verdict.broken)
        return verdict

    def _let_go_on(self, leaks: list[str]) -> None:
        for rank in sorted(self._instance.suspended):
            leaks.append(f"broker {rank}, which was stopped (SIGSTOP)")
            self._instance.brokers[rank].cont()

    def _look(self, verdict: Verdict) -> None:
        facts = self._inquiry.ask()
        if facts.health != self._expected:
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
        """Entries are content-addressed (RFC 10): putting back an entry puts back all that was below it."""
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
                transaction.put_entry(name, before[name])
        transaction.commit()
        return before


def _difference(before: Facts, now: Facts, leaks: list[str]) -> str:
    """What did not go back, in words."""
    for name in ("attributes", "config", "modules", "namespaces", "queues", "drains", "processes"):
        if getattr(before, name) != getattr(now, name):
            return f"{name} could not be put back ({'; '.join(leaks)})"
    return "jobs are still active" if now.jobs.keys() - before.jobs.keys() else ""


class _Restoration:
    """One round of putting back. Each part says what it found, then undoes it."""

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
            # ESRCH: it has gone by itself, or with its job.
            if error.errnum != errno.ESRCH:
                self._leaks.append(f"({topic}: {error})")

    def _end_jobs(self) -> None:
        from pytest_flux.protocol.fluid import f58

        jobs = [jobid for jobid in self._now.jobs if jobid not in self._before.jobs]
        if jobs:
            # A stopped queue keeps them from ending.
            self._restore_queues()
        for jobid in jobs:
            self._leaks.append(f"job {f58(jobid)}, which is still active")
            self._rpc("job-manager.raise", {"id": jobid, "type": "cancel", "severity": 0})
        deadline = time.monotonic() + _PATIENCE
        for jobid in jobs:
            self._client.jobs.result(jobid, max(deadline - time.monotonic(), 0))
        # Those that have ended are nobody's fault, but the next test would see them in its lists.
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
                # There is no event for it: a process of the background has nobody who is told.
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
