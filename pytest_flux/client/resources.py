"""Resources through a handle: all, the free and the drained ones."""

from __future__ import annotations

import errno

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.resource_set import ResourceSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from pytest_flux.client.connection import Connection

STATES = ("up", "down", "allocated", "free", "all")
"""The sets of :class:`ResourceList`."""


class ResourceList:
    """The resources of the scheduler, by state."""

    def __init__(self, everything: ResourceSet, down: ResourceSet, allocated: ResourceSet) -> None:
        self.all = everything
        self.down = down
        self.allocated = allocated

    @classmethod
    def decode(cls, answer: dict[str, Any]) -> ResourceList:
        """From the answer to ``resource.sched-status``. Absent members are empty. Raises ProtocolError."""
        sets = []
        for state in ("all", "down", "allocated"):
            value = answer.get(state)
            sets.append(ResourceSet.decode(value) if _has_ranks(value) else ResourceSet())
        return cls(*sets)

    @property
    def up(self) -> ResourceSet:
        """The resources that are not down."""
        return self.all.subtract(self.down)

    @property
    def free(self) -> ResourceSet:
        """The resources that are neither down nor allocated."""
        return self.up.subtract(self.allocated)

    def of(self, state: str) -> ResourceSet:
        """The set of one of ``STATES``."""
        found: ResourceSet = getattr(self, state)
        return found

    def changed(self, change: Callable[[ResourceSet], ResourceSet]) -> ResourceList:
        """The same with every set changed."""
        return ResourceList(change(self.all), change(self.down), change(self.allocated))


def _has_ranks(value: object) -> bool:
    """Whether an R has any resources; of an empty one the node list is not a list of hosts."""
    execution = value.get("execution") if isinstance(value, dict) else None
    return bool(execution.get("R_lite")) if isinstance(execution, dict) else False


class Drain:
    """Why and since when a rank is drained."""

    __slots__ = ("reason", "timestamp")

    def __init__(self, timestamp: float, reason: str) -> None:
        self.timestamp = timestamp
        self.reason = reason


class ResourceStatus:
    """Resources as administrators see them: sets of ranks by state, and the reasons of drains."""

    def __init__(self, status: dict[str, Any], allocated: Collection[int], housekeeping: Collection[int]) -> None:
        R = status["R"]  # noqa: N806, the name it has
        self.resources = ResourceSet.decode(R) if _has_ranks(R) else ResourceSet()
        self.all = frozenset(self.resources)
        self.online, self.offline, self.exclude = (
            frozenset(decode_idset(status[name])) for name in ("online", "offline", "exclude")
        )
        self.torpid = frozenset(decode_idset(status.get("torpid", "")))
        self.allocated = frozenset(allocated)
        self.housekeeping = frozenset(housekeeping)
        self.drains = {
            rank: Drain(entry["timestamp"], entry["reason"])
            for ranks, entry in status["drain"].items()
            for rank in decode_idset(ranks)
        }

    @property
    def draining(self) -> frozenset[int]:
        """Drained ranks that still have jobs."""
        return frozenset(self.drains) & self.allocated

    @property
    def drained(self) -> frozenset[int]:
        """Drained ranks without jobs."""
        return frozenset(self.drains) - self.allocated

    @property
    def avail(self) -> frozenset[int]:
        """Ranks that jobs may run on."""
        return self.all - self.exclude - frozenset(self.drains) - self.torpid

    def of(self, state: str) -> frozenset[int]:
        """The ranks in a state."""
        found: frozenset[int] = getattr(self, state)
        return found

    def keep(self, ranks: Collection[int]) -> None:
        """Forget all other ranks."""
        kept = frozenset(ranks)
        for name in ("all", "online", "offline", "exclude", "torpid", "allocated"):
            setattr(self, name, getattr(self, name) & kept)
        self.drains = {rank: drain for rank, drain in self.drains.items() if rank in kept}

    def hosts(self, ranks: Collection[int]) -> list[str]:
        """The names of the hosts of ranks."""
        nodes = self.resources.nodes
        return [nodes[rank].hostname for rank in sorted(ranks) if rank in nodes]


class Resources:
    """The resources of the instance that a handle is connected to."""

    def __init__(self, flux: Connection) -> None:
        self.flux = flux

    def list(self) -> ResourceList:
        """The resources of the scheduler."""
        return ResourceList.decode(self.flux.rpc("resource.sched-status", nodeid=0).get())

    def status(self) -> ResourceStatus:
        """The states of ranks. Parts whose service is missing are empty."""
        status = self.flux.rpc("resource.status", nodeid=0)
        schedule = self.flux.rpc("resource.sched-status", nodeid=0)
        stats = self.flux.rpc("job-manager.stats-get", nodeid=0)
        answer = status.get()
        try:
            allocated = tuple(ResourceList.decode(schedule.get()).allocated)
        except FluxError:
            allocated = ()
        try:
            running = stats.get()["housekeeping"]["running"].values()
        except FluxError:
            running = ()
        housekeeping = [rank for entry in running for rank in decode_idset(entry["allocated"])]
        return ResourceStatus(answer, allocated, housekeeping)

    def drain(self, targets: str, reason: str | None = None, *, mode: str | None = None) -> None:
        """Stop jobs from starting on ranks (an idset) or hosts (a hostlist).

        ``mode`` is for ranks that are drained already: "update" keeps their reason, "overwrite" replaces it,
        "force-overwrite" also their time. Without it, they raise FluxError EEXIST.
        """
        self._change("resource.drain", targets, reason, mode)

    def undrain(self, targets: str, reason: str | None = None, *, mode: str | None = None) -> None:
        """Let jobs start there again."""
        self._change("resource.undrain", targets, reason, mode)

    def _change(self, topic: str, targets: str, reason: str | None, mode: str | None) -> None:
        request = {"targets": targets}
        if mode is not None:
            request["mode"] = mode
        if reason:
            request["reason"] = reason
        self.flux.rpc(topic, request, nodeid=0).get()

    def is_drained(self, rank: int) -> bool:
        """Whether a rank is drained."""
        try:
            return rank in self.status().drains
        except FluxError as error:
            if error.errnum == errno.ENOSYS:
                return False
            raise


def ranks_of(targets: str, resources: ResourceSet) -> frozenset[int]:
    """The ranks that an idset names, or those of the hosts of a hostlist. Raises ValueError."""
    try:
        return frozenset(decode_idset(targets))
    except ValueError:
        hosts = frozenset(decode_hostlist(targets))
        return frozenset(rank for rank, node in resources.nodes.items() if node.hostname in hosts)
