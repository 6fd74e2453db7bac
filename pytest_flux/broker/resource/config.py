"""The configuration of resources: the tables ``[resource]`` and ``[fake-resources]`` (flux-config-resource(5))."""

from __future__ import annotations

from typing import Any, NamedTuple

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_value import decode_json
from pytest_flux.protocol.resource_set import MAX_CORES, Node, ResourceSet, resources_from_config

_TYPES: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "scheduling": (str,),
    "config": (list,),
    "verify": (dict,),
    "exclude": (str,),
    "norestrict": (bool,),
    "noverify": (bool,),
    "no-update-watch": (bool,),
    "rediscover": (bool,),
    "journal-max": (int,),
    "history": (str,),
}
_MAX_FAKE_NODES = 1 << 20


class ResourceConfig(NamedTuple):
    """The configuration of resources. If ``resources`` is None, brokers discover their own."""

    resources: ResourceSet | None
    exclude: str
    verify: bool
    rediscover: bool
    journal_max: int
    fake: bool


def decode_config(config: dict[str, Any]) -> ResourceConfig:
    """Read both tables. Raises ProtocolError, in flux-core's words if it has any."""
    table = config.get("resource", {})
    if not isinstance(table, dict):
        raise ProtocolError("error parsing [resource] configuration: not a table")
    for key, value in table.items():
        if key not in _TYPES:
            raise ProtocolError(f"error parsing [resource] configuration: 1 object item(s) left unpacked: {key}")
        if not isinstance(value, _TYPES[key]):
            raise ProtocolError(f"error parsing [resource] configuration: {key} has the wrong type")
    try:
        parse_duration(table.get("history", "90d"))
    except ProtocolError:
        raise ProtocolError("invalid history time") from None
    fake = _fake_resources(config.get("fake-resources"))
    return ResourceConfig(
        _configured(table) if fake is None else fake,
        table.get("exclude", ""),
        not table.get("noverify", False) and fake is None,
        table.get("rediscover", False),
        table.get("journal-max", 100000),
        fake is not None,
    )


def _configured(table: dict[str, Any]) -> ResourceSet | None:
    resources = None
    if "config" in table:
        try:
            resources = resources_from_config(table["config"])
        except ProtocolError as error:
            raise ProtocolError(f"error parsing [resource.config] array: {error}") from None
    elif "path" in table:
        resources = load_resources(table["path"])
    if "scheduling" in table:
        if resources is None:
            raise ProtocolError("resource.scheduling requires resource.path or [resource.config]")
        resources.scheduling = _load(table["scheduling"])
    return resources


def load_resources(path: str) -> ResourceSet:
    """Read R from a file. Raises ProtocolError."""
    return ResourceSet.decode(_load(path))


def _load(path: str) -> object:
    try:
        with open(path, "rb") as file:
            return decode_json(file.read(), strict=True)
    except OSError as error:
        raise ProtocolError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{path}: {error}") from None


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
            ("nnodes", 0, 1, _MAX_FAKE_NODES),
            ("cores-per-node", 64, 1, MAX_CORES),
            ("gpus-per-node", 0, 0, MAX_CORES),
        )
    )
    prefix = str(table.get("host-prefix", "fake"))
    return ResourceSet({rank: Node(f"{prefix}{rank}", (1 << cores) - 1, (1 << gpus) - 1) for rank in range(nnodes)})


def _count(table: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ProtocolError(f"[fake-resources] {key} must be a number from {least} to {most}")
    return value
