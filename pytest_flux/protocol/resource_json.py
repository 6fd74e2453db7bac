"""Reading R version 1 (RFC 20), which may come from anybody: a file, a configuration, an enclosing instance."""

from __future__ import annotations

from typing import Any

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.resource_set import Node, ResourceSet, mask_of

_UNFIT = frozenset("!&'\"^`|()")
"""What a property's name may not contain (RFC 20)."""


def decode_resources(value: object) -> ResourceSet:
    """The set that an R describes. Raises ProtocolError that names the member at fault."""
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
    return ResourceSet(
        nodes,
        _properties(execution.get("properties", {}), nodes),
        starttime=_time(execution, "starttime"),
        expiration=_time(execution, "expiration"),
        nslots=max(nslots, 0),
        scheduling=top.get("scheduling"),
    )


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
    for index, entry in enumerate(lite):
        place = f"R_lite[{index}]"
        children = _object(_object(entry, place).get("children"), f"{place}.children")
        for kind, ids in children.items():
            _text(ids, f"{place}.children.{kind[:40]}")
        cores, gpus = mask_of(children.get("core", "")), mask_of(children.get("gpu", ""))
        for rank in decode_idset(_text(entry.get("rank"), f"{place}.rank")):
            before = found.get(rank, (0, 0))
            if before[0] & cores or before[1] & gpus:
                raise ProtocolError(f"{place}: resources of rank {rank} are listed twice")
            found[rank] = (before[0] | cores, before[1] | gpus)
    hosts = [host for entry in nodelist for host in decode_hostlist(_text(entry, "execution.nodelist"))]
    if hosts and len(hosts) != len(found):
        raise ProtocolError(f"number of nodes in nodelist ({len(hosts)}) is not that of ranks ({len(found)})")
    return {
        rank: Node(hosts[position] if hosts else f"rank{rank}", *found[rank])
        for position, rank in enumerate(sorted(found))
    }


def _properties(value: object, nodes: dict[int, Node]) -> dict[str, frozenset[int]]:
    properties = {}
    for name, ids in _object(value, "execution.properties").items():
        if _UNFIT & set(name) or not name:
            raise ProtocolError(f"invalid character in property '{name[:80]}'")
        ranks = frozenset(decode_idset(_text(ids, f"property {name[:80]}")))
        if unknown := ranks - nodes.keys():
            raise ProtocolError(f"{encode_idset(unknown)} not found in target list", f"property {name[:80]}")
        properties[name] = ranks
    return properties


def resources_from_config(entries: object) -> ResourceSet:
    """The set that ``[[resource.config]]`` describes: flux-config-resource(5). Raises ProtocolError in Flux's words.

    Ranks are given to hosts in the order in which the hosts first appear.
    """
    if not isinstance(entries, list):
        raise ProtocolError("resource config must be an array")
    ranks: dict[str, int] = {}
    nodes: dict[int, Node] = {}
    properties: dict[str, set[int]] = {}
    for index, entry in enumerate(entries):
        place = f"config[{index}]"
        if not isinstance(entry, dict) or entry.keys() - {"hosts", "cores", "gpus", "properties"}:
            raise ProtocolError(f"{place}: unexpected key, or not a table")
        hosts = decode_hostlist(_text(entry.get("hosts"), f"{place}: hosts"))
        if not hosts:
            raise ProtocolError(f"{place}: empty hostlist specified")
        cores, gpus = (_config_ids(entry, name, place) for name in ("cores", "gpus"))
        names = entry.get("properties", [])
        if not isinstance(names, list):
            raise ProtocolError(f"{place}: properties must be an array")
        for host in hosts:
            rank = ranks.setdefault(host, len(ranks))
            before = nodes.get(rank, Node(host, 0, 0))
            nodes[rank] = Node(host, before.cores | cores, before.gpus | gpus)
            for name in names:
                if not isinstance(name, str) or _UNFIT & set(name):
                    raise ProtocolError(f'{place}: invalid property "{name}"')
                properties.setdefault(name, set()).add(rank)
    if not nodes:
        raise ProtocolError("no hosts configured")
    if empty := [node.hostname for node in nodes.values() if not node.cores and not node.gpus]:
        raise ProtocolError(f"resource.config: {','.join(empty)[:200]} assigned no resources")
    return ResourceSet(nodes, {name: frozenset(of_name) for name, of_name in properties.items()})


def _config_ids(entry: dict[str, Any], name: str, place: str) -> int:
    text = _text(entry.get(name, ""), f"{place}: {name}")
    try:
        return mask_of(text)
    except ProtocolError:
        raise ProtocolError(f"{place}: invalid idset {name}='{text[:80]}'") from None
