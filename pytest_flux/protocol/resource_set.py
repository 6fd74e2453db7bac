"""Resource sets, R version 1 (RFC 20, "R Format"): which cores and gpus of which ranks.

Cores and gpus are bit masks, one integer per rank, which makes sets of thousands of ranks cheap to compare and
combine. A set never changes: operations return new ones. R may come from anybody: a file, a configuration, an
enclosing instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_host_ranges, encode_hostlist, expand
from pytest_flux.protocol.idset import decode_idset, decode_ranges, encode_idset
from pytest_flux.protocol.json_unpack import unpack
from pytest_flux.protocol.limits import MAX_CORES, MAX_IDS, MAX_NODES, MAX_RESOURCE_BITS, Budget, check_limit
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNFIT = frozenset("!&'\"^`|()")
"""Characters that a property's name may not contain (RFC 20, "R Format", properties)."""

_MASK_TEXTS: dict[int, str] = {}


class Node(NamedTuple):
    """The resources of one rank: two bit masks, and the host's name."""

    hostname: str
    cores: int
    gpus: int


def is_property(name: object) -> bool:
    """Whether a value may be the name of a property (RFC 20)."""
    return isinstance(name, str) and not _UNFIT & set(name)


def mask_of(ids: str) -> int:
    """The bit mask for an idset. Raises ProtocolError if it is malformed, or has ids from MAX_CORES up."""
    mask = 0
    for first, last in decode_ranges(ids):
        check_limit("id of a resource", last, MAX_CORES - 1)
        mask |= ((1 << (last - first + 1)) - 1) << first
    return mask


def ids_of(mask: int) -> list[int]:
    """The ids in a bit mask, ascending."""
    # A text, not shifts: the work then grows with the length of the mask, not with its square.
    return [number for number, bit in enumerate(f"{mask:b}"[::-1]) if bit == "1"]


def text_of(mask: int) -> str:
    """The idset for a bit mask."""
    text = _MASK_TEXTS.get(mask)
    if text is None:
        if len(_MASK_TEXTS) > 4096:
            _MASK_TEXTS.clear()
        text = _MASK_TEXTS[mask] = encode_idset(ids_of(mask))
    return text


def lowest(mask: int, count: int) -> int:
    """The mask of the ``count`` lowest ids in a mask, or of all if it has fewer."""
    low, high = 0, mask.bit_length()
    while low < high:
        middle = (low + high) // 2
        if (mask & ((1 << middle) - 1)).bit_count() < count:
            low = middle + 1
        else:
            high = middle
    return mask & ((1 << low) - 1)


class ResourceSet:
    """Resources by rank. ``starttime`` and ``expiration`` are seconds since the epoch, 0 if not set."""

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
        given = nodes or {}
        self.nodes: dict[int, Node] = {rank: given[rank] for rank in sorted(given)}
        self.properties = {
            name: kept for name, ranks in (properties or {}).items() if (kept := frozenset(self.nodes.keys() & ranks))
        }
        self.starttime = starttime
        self.expiration = expiration
        self.nslots = nslots
        self.scheduling = scheduling

    # -- contents

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
        """The number of resources of kind "core", "gpu" or "node"; 0 for other kinds."""
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
        """The text that ``resource_summary`` annotations and ``flux resource`` show: ``rank[0-1]/core[0-3],gpu0``."""
        return " ".join(
            f"rank{_bracketed(encode_idset(ranks))}/core{_bracketed(text_of(cores))}"
            + (f",gpu{_bracketed(text_of(gpus))}" if gpus else "")
            for (cores, gpus), ranks in self._groups().items()
        )

    # -- operations

    def select(self, ranks: Iterable[int]) -> ResourceSet:
        """The resources of these ranks."""
        return self._with({rank: self.nodes[rank] for rank in ranks if rank in self.nodes})

    def without(self, ranks: Iterable[int]) -> ResourceSet:
        """The resources of all other ranks."""
        gone = frozenset(ranks)
        return self._with({rank: node for rank, node in self.nodes.items() if rank not in gone})

    def filter(self, wanted: Callable[[int, Node], bool]) -> ResourceSet:
        """The resources of the ranks for which ``wanted`` is true."""
        return self._with({rank: node for rank, node in self.nodes.items() if wanted(rank, node)})

    def union(self, other: ResourceSet) -> ResourceSet:
        """Everything that is in either set."""
        nodes = dict(self.nodes)
        for rank, node in other.nodes.items():
            mine = nodes.get(rank)
            nodes[rank] = Node(mine.hostname, mine.cores | node.cores, mine.gpus | node.gpus) if mine else node
        properties = dict(self.properties)
        for name, ranks in other.properties.items():
            properties[name] = properties.get(name, frozenset()) | ranks
        return self._with(nodes, properties)

    def subtract(self, other: ResourceSet) -> ResourceSet:
        """Everything that is not in ``other``. A rank with nothing left is not in the result."""
        nodes = {}
        for rank, node in self.nodes.items():
            theirs = other.nodes.get(rank)
            left = Node(node.hostname, node.cores & ~theirs.cores, node.gpus & ~theirs.gpus) if theirs else node
            if left.cores or left.gpus or theirs is None:
                nodes[rank] = left
        return self._with(nodes)

    def intersect(self, other: ResourceSet) -> ResourceSet:
        """Everything that is in both sets."""
        nodes = {}
        for rank, node in self.nodes.items():
            if (theirs := other.nodes.get(rank)) is not None:
                common = Node(node.hostname, node.cores & theirs.cores, node.gpus & theirs.gpus)
                if common.cores or common.gpus:
                    nodes[rank] = common
        return self._with(nodes)

    def replace(self, *, starttime: float, expiration: float) -> ResourceSet:
        """The same resources for other times."""
        changed = ResourceSet()
        # A set never changes, so both may have the same parts.
        changed.nodes, changed.properties, changed.scheduling = self.nodes, self.properties, self.scheduling
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
        """The set that an R (a parsed JSON object) describes. Raises ProtocolError that names the faulty member."""
        top = _object(value, "R")
        version = top.get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise ProtocolError("R has no version")
        if version != 1:
            raise ProtocolError(f"invalid version={version}")
        execution = _object(top.get("execution"), "execution")
        nodes = _nodes(execution)
        nslots = execution.get("nslots", 0)
        if not isinstance(nslots, int) or isinstance(nslots, bool):
            raise ProtocolError("execution.nslots is not a number")
        return cls(
            nodes,
            _properties(execution.get("properties", {}), nodes),
            starttime=_time(execution, "starttime"),
            expiration=_time(execution, "expiration"),
            nslots=max(nslots, 0),
            scheduling=top.get("scheduling"),
        )


_CONFIG_KINDS: dict[str, type] = {"hosts": str, "cores": str, "gpus": str, "properties": object}


def resources_from_config(entries: object) -> ResourceSet:
    """The set that ``[[resource.config]]`` describes: flux-config-resource(5). Raises ProtocolError in Flux's words.

    Ranks are given to hosts in the order in which the hosts first appear.
    """
    if not isinstance(entries, list):
        raise ProtocolError("resource config must be an array")
    ranks: dict[str, int] = {}
    nodes: dict[int, Node] = {}
    properties: dict[str, set[int]] = {}
    bits = Budget("bits of resources", MAX_RESOURCE_BITS)
    for index, entry in enumerate(entries):
        place = f"config[{index}]"
        try:
            unpack(entry, _CONFIG_KINDS, required=("hosts",))
        except ProtocolError as error:
            raise ProtocolError(f"{place}: {error}") from None
        try:
            host_ranges = decode_host_ranges(entry["hosts"])
        except ProtocolError:
            raise ProtocolError(f"{place}: invalid hostlist '{entry['hosts'][:80]}'") from None
        if not host_ranges:
            raise ProtocolError(f"{place}: empty hostlist specified")
        hosts = expand(host_ranges, limit=MAX_NODES)
        cores, gpus = (_config_ids(entry, name, place) for name in ("cores", "gpus"))
        bits.spend(len(hosts) * (cores.bit_length() + gpus.bit_length()))
        names = entry.get("properties", [])
        if not isinstance(names, list):
            raise ProtocolError(f"{place}: properties must be an array")
        for host in hosts:
            rank = ranks.setdefault(host, len(ranks))
            before = nodes.get(rank)
            nodes[rank] = Node(host, before.cores | cores, before.gpus | gpus) if before else Node(host, cores, gpus)
            for name in names:
                if not is_property(name):
                    raise ProtocolError(f'{place}: invalid property "{name}"')
                properties.setdefault(name, set()).add(rank)
        check_limit("hosts in resource.config", len(nodes), MAX_NODES)
    if not nodes:
        raise ProtocolError("no hosts configured")
    if empty := [node.hostname for node in nodes.values() if not node.cores and not node.gpus]:
        raise ProtocolError(f"resource.config: {','.join(empty)[:200]} assigned no resources")
    return ResourceSet(nodes, {name: frozenset(of_name) for name, of_name in properties.items()})


def _bracketed(ids: str) -> str:
    return f"[{ids}]" if "-" in ids or "," in ids else ids


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} is not an object")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ProtocolError(f"{name} is not a string")
    return value


def _time(execution: dict[str, Any], name: str) -> float:
    value = execution.get(name, 0.0)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value < float("inf"):
        raise ProtocolError(f"execution.{name} is not a time")
    return max(float(value), 0.0)


def _nodes(execution: dict[str, Any]) -> dict[int, Node]:
    lite, nodelist = execution.get("R_lite"), execution.get("nodelist", [])
    if not isinstance(lite, list):
        raise ProtocolError("execution.R_lite is not an array")
    if not isinstance(nodelist, list):
        raise ProtocolError("execution.nodelist is not an array")
    found: dict[int, tuple[int, int]] = {}
    ranks_left, bits = Budget("ranks in R", MAX_NODES), Budget("bits of resources in R", MAX_RESOURCE_BITS)
    for index, entry in enumerate(lite):
        place = f"R_lite[{index}]"
        children = _object(_object(entry, place).get("children"), f"{place}.children")
        for kind, ids in children.items():
            _text(ids, f"{place}.children.{kind[:40]}")
        cores, gpus = mask_of(children.get("core", "")), mask_of(children.get("gpu", ""))
        ranks = decode_idset(_text(entry.get("rank"), f"{place}.rank"), limit=MAX_NODES)
        ranks_left.spend(len(ranks))
        bits.spend(len(ranks) * (cores.bit_length() + gpus.bit_length()))
        for rank in ranks:
            if (before := found.get(rank)) is None:
                found[rank] = (cores, gpus)
            elif before[0] & cores or before[1] & gpus:
                raise ProtocolError(f"{place}: resources of rank {rank} are listed twice")
            else:
                found[rank] = (before[0] | cores, before[1] | gpus)
    hosts = expand(
        [found for entry in nodelist for found in decode_host_ranges(_text(entry, "execution.nodelist"))],
        limit=MAX_NODES,
    )
    if hosts and len(hosts) != len(found):
        raise ProtocolError(f"number of nodes in nodelist ({len(hosts)}) is not that of ranks ({len(found)})")
    return {
        rank: Node(hosts[position] if hosts else f"rank{rank}", *found[rank])
        for position, rank in enumerate(sorted(found))
    }


def _properties(value: object, nodes: dict[int, Node]) -> dict[str, frozenset[int]]:
    properties = {}
    total = Budget("ranks of properties in R", MAX_IDS)
    for name, ids in _object(value, "execution.properties").items():
        if _UNFIT & set(name) or not name:
            raise ProtocolError(f"invalid character in property '{name[:80]}'")
        ranks = frozenset(decode_idset(_text(ids, f"property {name[:80]}"), limit=MAX_NODES))
        if unknown := ranks - nodes.keys():
            raise ProtocolError(f"{encode_idset(unknown)} not found in target list", f"property {name[:80]}")
        total.spend(len(ranks))
        properties[name] = ranks
    return properties


def _config_ids(entry: dict[str, Any], name: str, place: str) -> int:
    text = _text(entry.get(name, ""), f"{place}: {name}")
    try:
        return mask_of(text)
    except ProtocolError:
        raise ProtocolError(f"{place}: invalid idset {name}='{text[:80]}'") from None
