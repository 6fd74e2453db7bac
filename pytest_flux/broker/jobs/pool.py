"""The resources that jobs are scheduled on, as bits per node. Choices and texts are those of flux-core's Rv1Pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from pytest_flux.protocol.constraint import Matcher, Node
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset, encode_ranges
from pytest_flux.protocol.jobspec import Counts


class InfeasibleError(Exception):
    """A request that these resources can never fulfil. The text is the note of the exception that follows."""


class Request(NamedTuple):
    """What a job wants. ``key`` is equal for requests that are."""

    counts: Counts
    constraint: Matcher | None
    key: str


class Pool(Protocol):
    """What the scheduler asks of resources."""

    expiration: float

    def find(self, request: Request) -> dict[str, Any] | None:
        """Take resources: R (RFC 20) without times, or None while there are not enough. InfeasibleError."""

    def take(self, resources: dict[str, Any]) -> None:
        """Take exactly these: those of a job that ran before a restart."""

    def free(self, resources: dict[str, Any]) -> None:
        """Give resources back."""

    def check(self, request: Request) -> None:
        """Raise InfeasibleError for a request that can never be fulfilled."""

    def copy(self) -> Pool:
        """The same, for trying something out."""


class _Host:
    """One node: all its cores and GPUs, and those that are free, as bits."""

    __slots__ = ("cores", "free_cores", "free_gpus", "gpus", "is_up", "node")

    def __init__(self, node: Node, cores: int, gpus: int) -> None:
        self.node = node
        self.cores = self.free_cores = cores
        self.gpus = self.free_gpus = gpus
        self.is_up = True


class NodePool:
    """A Pool made of R."""

    def __init__(self, resources: dict[str, Any]) -> None:
        execution = resources["execution"]
        self.expiration = float(execution.get("expiration", 0.0))
        hosts = [host for text in execution.get("nodelist", []) for host in decode_hostlist(text)]
        properties: dict[int, set[str]] = {}
        for name, ranks in (execution.get("properties") or {}).items():
            for rank in decode_idset(ranks):
                properties.setdefault(rank, set()).add(name)
        entries = [
            (rank, _bits(entry["children"].get("core", "")), _bits(entry["children"].get("gpu", "")))
            for entry in execution["R_lite"]
            for rank in decode_idset(entry["rank"])
        ]
        self._hosts: dict[int, _Host] = {}
        for position, (rank, cores, gpus) in enumerate(sorted(entries)):
            name = hosts[position] if position < len(hosts) else ""
            self._hosts[rank] = _Host(Node(rank, name, frozenset(properties.get(rank, ()))), cores, gpus)

    def copy(self) -> NodePool:
        """See Pool."""
        other = object.__new__(NodePool)
        other.expiration = self.expiration
        other._hosts = {}
        for rank, host in self._hosts.items():
            twin = other._hosts[rank] = _Host(host.node, host.cores, host.gpus)
            twin.free_cores, twin.free_gpus, twin.is_up = host.free_cores, host.free_gpus, host.is_up
        return other

    def mark(self, ranks: Iterable[int], *, up: bool) -> None:
        """Nodes come and go; jobs that are on them keep their resources."""
        for rank in ranks:
            if rank in self._hosts:
                self._hosts[rank].is_up = up

    def _eligible(self, request: Request) -> list[_Host]:
        constraint = request.constraint
        return [host for host in self._hosts.values() if constraint is None or constraint(host.node)]

    def find(self, request: Request) -> dict[str, Any] | None:
        """See Pool. Where there is a choice, nodes with the most free cores come first."""
        candidates = [host for host in self._eligible(request) if host.is_up]
        candidates.sort(key=lambda host: (host.free_cores.bit_count(), host.free_gpus.bit_count()), reverse=True)
        counts = request.counts
        chosen = _choose_nodes(candidates, counts) if counts.nnodes else _choose_slots(candidates, counts)
        if chosen is None:
            self.check(request)
            return None
        for host, cores, gpus in chosen:
            host.free_cores &= ~cores
            host.free_gpus &= ~gpus
        return _resources(chosen, counts.nslots)

    def take(self, resources: dict[str, Any]) -> None:
        """See Pool."""
        self._change(resources, take=True)

    def free(self, resources: dict[str, Any]) -> None:
        """See Pool."""
        self._change(resources, take=False)

    def _change(self, resources: dict[str, Any], *, take: bool) -> None:
        for entry in resources["execution"]["R_lite"]:
            cores, gpus = _bits(entry["children"].get("core", "")), _bits(entry["children"].get("gpu", ""))
            for rank in decode_idset(entry["rank"]):
                host = self._hosts.get(rank)
                if host is None:
                    if take:
                        raise ProtocolError(f"allocation contains ranks not in resource pool: [{rank}]")
                elif take:
                    host.free_cores &= ~cores
                    host.free_gpus &= ~gpus
                else:
                    host.free_cores |= cores & host.cores
                    host.free_gpus |= gpus & host.gpus

    def check(self, request: Request) -> None:
        """See Pool."""
        counts, hosts = request.counts, self._eligible(request)
        if counts.exclusive:
            need = max(counts.nnodes, 1)
            fit = sum(_slots(host.cores, host.gpus, counts) > 0 for host in hosts)
            if fit < need:
                text = f"need {need} exclusive node(s), only {fit} eligible"
                raise InfeasibleError(f"unsatisfiable request: {text}")
            return
        if counts.nnodes:
            self._check_nodes(counts, hosts)
            return
        slots = sum(host.cores.bit_count() // counts.cores_per_slot for host in hosts)
        if slots < counts.nslots:
            total = sum(host.cores.bit_count() for host in hosts)
            raise InfeasibleError(
                f"unsatisfiable request: need {counts.nslots} slot(s) of {counts.cores_per_slot} core(s), "
                f"only {slots} such slot(s) available (total cores: {total})"
            )
        with_gpus = sum(_slots(host.cores, host.gpus, counts) for host in hosts)
        if with_gpus < counts.nslots:
            total = sum(host.gpus.bit_count() for host in hosts)
            raise InfeasibleError(
                f"unsatisfiable request: need {counts.nslots} slot(s) with {counts.gpus_per_slot} GPU(s) each, "
                f"only {with_gpus} available (total GPUs: {total})"
            )

    @staticmethod
    def _check_nodes(counts: Counts, hosts: list[_Host]) -> None:
        slots = counts.nslots // counts.nnodes
        fit = sum(_slots(host.cores, host.gpus, counts) >= slots for host in hosts)
        if fit < counts.nnodes:
            gpus = slots * counts.gpus_per_slot
            raise InfeasibleError(
                f"unsatisfiable request: need {counts.nnodes} node(s) with {slots * counts.cores_per_slot} cores"
                + (f" and {gpus} GPUs" if gpus else "")
                + f" each, only {fit} eligible"
            )


_Choice = list[tuple[_Host, int, int]]


def _slots(cores: int, gpus: int, counts: Counts) -> int:
    slots = cores.bit_count() // counts.cores_per_slot
    return min(slots, gpus.bit_count() // counts.gpus_per_slot) if counts.gpus_per_slot else slots


def _choose_nodes(candidates: list[_Host], counts: Counts) -> _Choice | None:
    slots = counts.nslots // counts.nnodes
    chosen: _Choice = []
    for host in candidates:
        if counts.exclusive:
            if host.free_cores == host.cores and _slots(host.free_cores, host.free_gpus, counts) >= slots:
                chosen.append((host, host.free_cores, host.free_gpus))
        elif _slots(host.free_cores, host.free_gpus, counts) >= slots:
            cores = _lowest(host.free_cores, slots * counts.cores_per_slot)
            chosen.append((host, cores, _lowest(host.free_gpus, slots * counts.gpus_per_slot)))
        if len(chosen) == counts.nnodes:
            return chosen
    return None


def _choose_slots(candidates: list[_Host], counts: Counts) -> _Choice | None:
    chosen: _Choice = []
    missing = counts.nslots
    for host in candidates:
        slots = min(missing, _slots(host.free_cores, host.free_gpus, counts))
        if slots:
            cores = _lowest(host.free_cores, slots * counts.cores_per_slot)
            chosen.append((host, cores, _lowest(host.free_gpus, slots * counts.gpus_per_slot)))
            missing -= slots
        if not missing:
            return chosen
    return None


def _lowest(bits: int, count: int) -> int:
    lowest = 0
    for _ in range(count):
        bit = bits & -bits
        lowest |= bit
        bits ^= bit
    return lowest


def _bits(idset: str) -> int:
    bits = 0
    for number in decode_idset(idset):
        bits |= 1 << number
    return bits


def _idset(bits: int) -> str:
    ranges, start = [], 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        start += skip
        length = (~bits & (bits + 1)).bit_length() - 1
        ranges.append((start, start + length - 1))
        bits >>= length
        start += length
    return encode_ranges(ranges)


def _resources(chosen: _Choice, nslots: int) -> dict[str, Any]:
    chosen = sorted(chosen, key=lambda choice: choice[0].node.rank)
    groups: dict[tuple[int, int], list[int]] = {}
    for host, cores, gpus in chosen:
        groups.setdefault((cores, gpus), []).append(host.node.rank)
    lite = []
    for (cores, gpus), ranks in groups.items():
        children = {"core": _idset(cores)}
        if gpus:
            children["gpu"] = _idset(gpus)
        lite.append({"rank": encode_idset(ranks), "children": children})
    execution = {
        "R_lite": lite,
        "starttime": 0.0,
        "expiration": 0.0,
        "nslots": nslots,
        "nodelist": [encode_hostlist(host.node.hostname for host, _, _ in chosen)],
    }
    return {"version": 1, "execution": execution}
