"""What is known of an instance at one moment: everything that a test could have left different."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flux.client import Flux
    from pytest_flux.client.connection import Rpc

_IMMUTABLE = 1
# Keys that services write, which are looked at through the services.
_SERVICE_KEYS = frozenset({"admin", "checkpoint", "job", "modprobe", "resource"})

Entries = dict[str, Any]


class Facts:
    """One look at an instance. What belongs to a service that it does not have is None."""

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
    """Asks an instance of ``size`` brokers for its facts, all questions at once; they are answered while we go on."""

    def __init__(self, client: Flux, size: int, timeout: float) -> None:
        self._client = client
        self._size = size
        self._timeout = timeout
        self._mutable: list[str] | None = None
        self._queues: list[str] | None = None
        self._absent: set[str] = set()

    def ask(self) -> Facts:
        """Take a look. Raises FluxError or OSError where rank 0 does not answer."""
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
        """Which attributes can change at all, and which queues there are."""
        names = list(self._client.rpc("attr.list", nodeid=0).get(self._timeout)["names"])
        rpcs = [(name, self._client.rpc("attr.get", {"name": name}, nodeid=0)) for name in names]
        answers = [(name, self._receive(rpc)) for name, rpc in rpcs]
        self._mutable = [name for name, answer in answers if answer and not answer["flags"] & _IMMUTABLE]
        self._fixed = set(names) - set(self._mutable)
        rpc = self._send("job-manager.queue-list", {})
        answer = self._receive(rpc)
        self._queues = [*answer["queues"]] or [""] if "queues" in answer else []

    def entries(self) -> Entries:
        """What is at the root of the key-value store, as it is stored, but for what services keep there."""
        from pytest_flux.client.kvs import Kvs

        return {name: entry for name, entry in Kvs(self._client).ls().items() if name not in _SERVICE_KEYS}

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
            # ENOSYS: no such service. EHOSTUNREACH: no such broker, which is a fact that `health` tells.
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
    """Whether a real Flux has started a process for itself: shells of jobs, and helpers of job-ingest."""
    return command.startswith("flux job-") or command.rpartition("/")[2] in ("flux-shell", "flux-imp")


def _queue(name: str) -> dict[str, str]:
    return {"name": name} if name else {}


def _read(answers: Mapping[str, dict[str, Any]]) -> Facts:
    facts = Facts()
    facts.config = answers["config.get"]
    facts.modules = frozenset(module["name"] for module in answers["module.list"].get("mods", ()))
    facts.root = answers["kvs.getroot"].get("rootref")
    spaces = answers["kvs.namespace-list"].get("namespaces", ())
    # Those of jobs come and go with the jobs.
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
