"""The configuration of resources: the tables ``[resource]`` and ``[fake-resources]`` (flux-config-resource(5))."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

from pytest_flux.protocol.config_tables import check_verify
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_host_ranges
from pytest_flux.protocol.idset import decode_ranges
from pytest_flux.protocol.json_unpack import unpack
from pytest_flux.protocol.json_value import decode_json
from pytest_flux.protocol.limits import MAX_CORES, MAX_NODES, MAX_RESOURCE_BITS, Budget, check_limit
from pytest_flux.protocol.resource_set import Node, ResourceSet, is_property, resources_from_config

_KINDS: dict[str, type] = {
    "path": str,
    "scheduling": str,
    "config": object,
    "verify": object,
    "exclude": str,
    "norestrict": bool,
    "noverify": bool,
    "no-update-watch": bool,
    "rediscover": bool,
    "journal-max": int,
    "history": str,
}
JOURNAL_MAX = 100_000
"""How many resource events are kept by default."""
_HISTORY = "90d"
"""For how long resource events are kept in the KVS by default."""


class ResourceConfig(NamedTuple):
    """The configuration of resources. If ``resources`` is None, brokers discover their own.

    Events are kept in the KVS for ``history`` seconds.
    """

    resources: ResourceSet | None
    exclude: str
    verify: bool
    rediscover: bool
    journal_max: int
    history: float
    fake: bool


def check_config(config: dict[str, Any]) -> None:
    """Check ``[resource]`` as flux-core's resource module does at each change. Raises ProtocolError in its words."""
    table = config.get("resource", {})
    try:
        unpack(table, _KINDS)
    except ProtocolError as error:
        raise ProtocolError(f"error parsing [resource] configuration: {error}") from None
    if "config" in table:
        _configured(table)
    elif "path" in table:
        _load(table["path"])
    if "scheduling" in table:
        if "config" not in table and "path" not in table:
            raise ProtocolError("resource.scheduling requires resource.path or [resource.config]")
        _load(table["scheduling"], "error loading resource.scheduling: ")
    try:
        parse_duration(table.get("history", _HISTORY))
    except ProtocolError:
        raise ProtocolError("invalid history time") from None
    if "verify" in table:
        check_verify(table["verify"])


def decode_config(config: dict[str, Any]) -> ResourceConfig:
    """Check and read both tables. Raises ProtocolError, in flux-core's words if it has any."""
    check_config(config)
    table = config.get("resource", {})
    fake = _fake_resources(config.get("fake-resources"))
    return ResourceConfig(
        _configured(table) if fake is None else fake,
        table.get("exclude", ""),
        not table.get("noverify", False) and fake is None,
        table.get("rediscover", False),
        table.get("journal-max", JOURNAL_MAX),
        parse_duration(table.get("history", _HISTORY)),
        fake is not None,
    )


def check_exclude(decoded: ResourceConfig, size: int) -> None:
    """Check that excluded ranks exist in an instance of ``size`` brokers. Raises ProtocolError."""
    if not decoded.exclude:
        return
    try:
        excluded = decode_ranges(decoded.exclude)
    except ProtocolError:
        # Hostnames are looked up later, in R.
        decode_host_ranges(decoded.exclude)
        return
    if excluded and excluded[-1][1] >= max(size, len(decoded.resources or ())):
        raise ProtocolError(f"exclude set {decoded.exclude} is out of range")


def _configured(table: dict[str, Any]) -> ResourceSet | None:
    resources = None
    if "config" in table:
        try:
            resources = resources_from_config(table["config"])
        except ProtocolError as error:
            raise ProtocolError(f"error parsing [resource.config] array: {error}") from None
    elif "path" in table:
        try:
            resources = ResourceSet.decode(_load(table["path"]))
        except ProtocolError as error:
            raise ProtocolError(f"error parsing R: {error}") from None
    if "scheduling" in table and resources is not None:
        resources.scheduling = _load(table["scheduling"])
    return resources


def load_resources(path: str) -> ResourceSet:
    """Read R from a file. Raises ProtocolError."""
    return ResourceSet.decode(_load(path))


def _load(path: str, prefix: str | None = None) -> object:
    prefix = f"{path}: " if prefix is None else prefix
    try:
        with open(path, "rb") as file:
            return decode_json(file.read(), strict=True)
    except OSError as error:
        raise ProtocolError(f"{prefix}unable to open {path}: {error.strerror} on line -1") from None
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{prefix}{error}") from None


_FAKE_KINDS = frozenset(("nnodes", "cores-per-node", "gpus-per-node", "host-prefix", "properties"))
_FAKE_FOREIGN = ("hwloc-xml-path", "amend-r")


def _fake_resources(table: object) -> ResourceSet | None:
    """Read ``[fake-resources]``: one kind of nodes, or, which is ours, ``kinds``, a list of such tables."""
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ProtocolError("[fake-resources] must be a table")
    for key in _FAKE_FOREIGN:
        if key in table:
            raise ProtocolError(f"[fake-resources] {key}: embedded brokers cannot do this; install flux-core")
    kinds = table.get("kinds", [table])
    if not isinstance(kinds, list) or not kinds or ("kinds" in table and len(table) > 1):
        raise ProtocolError("[fake-resources] kinds must be a list of tables, beside which nothing else may stand")
    nodes: dict[int, Node] = {}
    properties: dict[str, list[range]] = {}
    bits = Budget("bits of fake resources", MAX_RESOURCE_BITS)
    for kind in kinds:
        ranks, names = _add_fake_nodes(kind, nodes, bits)
        for name in names:
            properties.setdefault(name, []).append(ranks)
    if len({node.hostname for node in nodes.values()}) < len(nodes):
        raise ProtocolError("[fake-resources] kinds: two nodes have the same name: give each kind a host-prefix")
    return ResourceSet(nodes, {name: frozenset(chain(*ranks)) for name, ranks in properties.items()})


def _add_fake_nodes(kind: object, nodes: dict[int, Node], bits: Budget) -> tuple[range, list[str]]:
    """Add nodes of one kind. Returns their ranks and the names of their properties."""
    if not isinstance(kind, dict) or "nnodes" not in kind:
        raise ProtocolError("[fake-resources] table requires the 'nnodes' key")
    unknown = sorted(kind.keys() - _FAKE_KINDS)
    if unknown:
        known = ", ".join(sorted(_FAKE_KINDS))
        raise ProtocolError(f"[fake-resources] unknown key '{unknown[0]}': known are {known}")
    count, cores, gpus = (
        _count(kind, key, default, least, most)
        for key, default, least, most in (
            ("nnodes", 0, 1, MAX_NODES),
            ("cores-per-node", 64, 1, MAX_CORES),
            ("gpus-per-node", 0, 0, MAX_CORES),
        )
    )
    names = kind.get("properties", [])
    if not isinstance(names, list) or not all(is_property(name) for name in names):
        raise ProtocolError(f"[fake-resources] properties must be a list of names: {names!r}"[:200])
    first = len(nodes)
    check_limit("[fake-resources] nodes", first + count, MAX_NODES)
    bits.spend(count * (cores + gpus))
    prefix = str(kind.get("host-prefix", "fake"))
    core_mask, gpu_mask = (1 << cores) - 1, (1 << gpus) - 1
    for number in range(count):
        nodes[first + number] = Node(f"{prefix}{number}", core_mask, gpu_mask)
    return range(first, first + count), names


def _count(table: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ProtocolError(f"[fake-resources] {key} must be a number from {least} to {most}")
    return value
