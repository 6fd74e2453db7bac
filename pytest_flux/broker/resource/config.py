"""The configuration of resources: the tables ``[resource]`` and ``[fake-resources]`` (flux-config-resource(5))."""

from __future__ import annotations

from typing import Any, NamedTuple

from pytest_flux.protocol.config_tables import check_verify
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_host_ranges
from pytest_flux.protocol.idset import decode_ranges
from pytest_flux.protocol.json_unpack import unpack
from pytest_flux.protocol.json_value import decode_json
from pytest_flux.protocol.limits import MAX_CORES, MAX_NODES
from pytest_flux.protocol.resource_set import Node, ResourceSet, resources_from_config

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


def _fake_resources(table: object) -> ResourceSet | None:
    if table is None:
        return None
    if not isinstance(table, dict) or "nnodes" not in table:
        raise ProtocolError("[fake-resources] table requires the 'nnodes' key")
    for key in ("hwloc-xml-path", "amend-r"):
        if key in table:
            raise ProtocolError(f"[fake-resources] {key}: embedded brokers cannot do this; install flux-core")
    nnodes, cores, gpus = (
        _count(table, key, default, least, most)
        for key, default, least, most in (
            ("nnodes", 0, 1, MAX_NODES),
            ("cores-per-node", 64, 1, MAX_CORES),
            ("gpus-per-node", 0, 0, MAX_CORES),
        )
    )
    prefix = str(table.get("host-prefix", "fake"))
    core_mask, gpu_mask = (1 << cores) - 1, (1 << gpus) - 1
    return ResourceSet({rank: Node(f"{prefix}{rank}", core_mask, gpu_mask) for rank in range(nnodes)})


def _count(table: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ProtocolError(f"[fake-resources] {key} must be a number from {least} to {most}")
    return value
