"""Resource sets, R version 1: RFC 20. Which cores and gpus of which ranks.

Cores and gpus are kept as bit masks, one integer per rank, which makes sets of thousands of ranks cheap to compare
and combine. A set is not changed after it was made: operations return new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset

MAX_CORES = 1 << 16
"""Ids of cores and gpus must be smaller: a short text could otherwise make a mask of any size."""

_MASK_TEXTS: dict[int, str] = {}


class Node(NamedTuple):
    """What a set has of one rank: two bit masks, and the host's name."""

    hostname: str
    cores: int
    gpus: int


def mask_of(ids: str) -> int:
    """The bit mask for an idset. Raises ProtocolError for what is none, or has ids of :data:`MAX_CORES` and more."""
    mask = 0
    for number in decode_idset(ids):
        if number >= MAX_CORES:
            raise ProtocolError(f"resource id larger than {MAX_CORES - 1}", str(number))
        mask |= 1 << number
    return mask


def ids_of(mask: int) -> list[int]:
    """The ids in a bit mask, ascending."""
    ids = []
    while mask:
        low = mask & -mask
        ids.append(low.bit_length() - 1)
        mask ^= low
    return ids


def first_of(mask: int, count: int) -> int:
    """The lowest ids of a bit mask, so many at most."""
    kept = 0
    while mask and count > 0:
        low = mask & -mask
        kept |= low
        mask ^= low
        count -= 1
    return kept


def text_of(mask: int) -> str:
    """The idset for a bit mask."""
    text = _MASK_TEXTS.get(mask)
    if text is None:
        if len(_MASK_TEXTS) > 4096:
            _MASK_TEXTS.clear()
        text = _MASK_TEXTS[mask] = encode_idset(ids_of(mask))
    return text


def lowest(mask: int, count: int) -> int:
    """The mask of the ``count`` lowest ids in a mask that has that many."""
    chosen = 0
    for _ in range(count):
        low = mask & -mask
        chosen |= low
        mask ^= low
    return chosen


class ResourceSet:
    """Resources by rank. ``starttime`` and ``expiration`` are seconds since the epoch, 0 for none."""

    __slots__ = ("expiration", "nodes", "nslots", "properties", "scheduling", "starttime")

    def __init__(
        self,
        nodes: Mapping[int, Node] | None = None,
        properties: Mapping[str, frozenset[int]] | None = None,
        *,
        starttime: float = 0.0,
        expiration: float = 0.0,
        nslots: int = 0,
        scheduling: object = None,
    ) -> None:
        self.nodes: dict[int, Node] = {rank: (nodes or {})[rank] for rank in sorted(nodes or {})}
        self.properties = {
            name: kept
            for name, ranks in (properties or {}).items()
            if (kept := frozenset(rank for rank in ranks if rank in self.nodes))
        }
        self.starttime = starttime
        self.expiration = expiration
        self.nslots = nslots
        self.scheduling = scheduling

    # -- what it holds

    def __len__(self) -> int:
        """The number of ranks."""
        return len(self.nodes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.nodes)

    def __contains__(self, rank: object) -> bool:
        return rank in self.nodes

    def __eq__(self, other: object) -> bool:
        """Whether resources and properties are the same; times and slots aside."""
        if not isinstance(other, ResourceSet):
            return NotImplemented
        return self.nodes == other.nodes and self.properties == other.properties

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<ResourceSet {self.summary()[:200]}>"

    def count(self, kind: str) -> int:
        """How many of "core", "gpu" or "node" there are; none of anything else."""
        if kind == "core":
            return sum(node.cores.bit_count() for node in self.nodes.values())
        if kind == "gpu":
            return sum(node.gpus.bit_count() for node in self.nodes.values())
        return len(self.nodes) if kind == "node" else 0

    @property
    def ranks(self) -> str:
        """The ranks, as idset."""
        return encode_idset(self.nodes)

    @property
    def hosts(self) -> list[str]:
        """The host name of each rank, in the order of ranks."""
        return [node.hostname for node in self.nodes.values()]

    @property
    def nodelist(self) -> str:
        """The host names as hostlist (RFC 29)."""
        return encode_hostlist(self.hosts)

    def properties_of(self, rank: int) -> frozenset[str]:
        """The properties of a rank."""
        return frozenset(name for name, ranks in self.properties.items() if rank in ranks)

    def summary(self) -> str:
        """What ``resource_summary`` annotations and ``flux resource`` show: ``rank[0-1]/core[0-3],gpu0``."""
        return " ".join(
            f"rank{_bracketed(encode_idset(ranks))}/core{_bracketed(text_of(cores))}"
            + (f",gpu{_bracketed(text_of(gpus))}" if gpus else "")
            for (cores, gpus), ranks in self._groups().items()
        )

    # -- operations

    def select(self, ranks: Iterable[int]) -> ResourceSet:
        """What there is of these ranks."""
        return self._with({rank: self.nodes[rank] for rank in ranks if rank in self.nodes})

    def without(self, ranks: Iterable[int]) -> ResourceSet:
        """What there is besides these ranks."""
        gone = frozenset(ranks)
        return self._with({rank: node for rank, node in self.nodes.items() if rank not in gone})

    def filter(self, wanted: Callable[[int, Node], bool]) -> ResourceSet:
        """What there is of the ranks that ``wanted`` says yes to."""
        return self._with({rank: node for rank, node in self.nodes.items() if wanted(rank, node)})

    def union(self, other: ResourceSet) -> ResourceSet:
        """Everything that is in one of the two."""
        nodes = dict(self.nodes)
        for rank, node in other.nodes.items():
            mine = nodes.get(rank)
            nodes[rank] = Node(mine.hostname, mine.cores | node.cores, mine.gpus | node.gpus) if mine else node
        properties = dict(self.properties)
        for name, ranks in other.properties.items():
            properties[name] = properties.get(name, frozenset()) | ranks
        return self._with(nodes, properties)

    def subtract(self, other: ResourceSet) -> ResourceSet:
        """What is not in ``other``; a rank of which nothing is left is not in the result."""
        nodes = {}
        for rank, node in self.nodes.items():
            theirs = other.nodes.get(rank)
            left = Node(node.hostname, node.cores & ~theirs.cores, node.gpus & ~theirs.gpus) if theirs else node
            if left.cores or left.gpus or theirs is None:
                nodes[rank] = left
        return self._with(nodes)

    def intersect(self, other: ResourceSet) -> ResourceSet:
        """What is in both."""
        nodes = {}
        for rank, node in self.nodes.items():
            if (theirs := other.nodes.get(rank)) is not None:
                common = Node(node.hostname, node.cores & theirs.cores, node.gpus & theirs.gpus)
                if common.cores or common.gpus:
                    nodes[rank] = common
        return self._with(nodes)

    def replace(self, *, starttime: float, expiration: float) -> ResourceSet:
        """The same resources for other times."""
        changed = self._with(self.nodes)
        changed.nslots, changed.starttime, changed.expiration = self.nslots, starttime, expiration
        return changed

    def _with(self, nodes: Mapping[int, Node], properties: Mapping[str, frozenset[int]] | None = None) -> ResourceSet:
        return ResourceSet(
            nodes,
            self.properties if properties is None else properties,
            starttime=self.starttime,
            expiration=self.expiration,
            scheduling=self.scheduling,
        )

    def _groups(self) -> dict[tuple[int, int], list[int]]:
        """Ranks that have the same resources, groups in the order of their first ranks."""
        groups: dict[tuple[int, int], list[int]] = {}
        for rank, node in self.nodes.items():
            groups.setdefault((node.cores, node.gpus), []).append(rank)
        return groups

    # -- JSON

    def encode(self) -> dict[str, Any]:
        """R as JSON object, with its members in the order in which sched-simple writes them."""
        lite = []
        for (cores, gpus), ranks in self._groups().items():
            children = {"core": text_of(cores)}
            if gpus:
                children["gpu"] = text_of(gpus)
            lite.append({"rank": encode_idset(ranks), "children": children})
        execution: dict[str, Any] = {"R_lite": lite, "starttime": self.starttime, "expiration": self.expiration}
        if self.nslots > 0:
            execution["nslots"] = self.nslots
        execution["nodelist"] = [self.nodelist]
        if self.properties:
            execution["properties"] = {name: encode_idset(ranks) for name, ranks in sorted(self.properties.items())}
        value: dict[str, Any] = {"version": 1, "execution": execution}
        if self.scheduling is not None:
            value["scheduling"] = self.scheduling
        return value

    @classmethod
    def decode(cls, value: object) -> ResourceSet:
        """The set that an R (a parsed JSON object) describes. Raises ProtocolError."""
        from pytest_flux.protocol.resource_json import decode_resources

        return decode_resources(value)


def _bracketed(ids: str) -> str:
    return f"[{ids}]" if "-" in ids or "," in ids else ids
