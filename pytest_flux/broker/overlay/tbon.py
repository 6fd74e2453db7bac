"""The settings of the tree of brokers: ``tbon.*`` attributes, else the table ``[tbon]``, else defaults."""

from __future__ import annotations

import errno

from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot.boot import Boot
from pytest_flux.broker.overlay.parent_link import IPC
from pytest_flux.broker.overlay.topology import Topology, custom_parents
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIMES = {"connect_timeout": "30s", "tcp_user_timeout": "20s", "torpid_min": "5s", "torpid_max": "30s"}
_NUMBERS = ("zmqdebug", "zmq_io_threads", "child_rcvhwm", "prefertcp")


def configure(attributes: Attributes, config: dict[str, Any]) -> None:
    """Give the ``tbon.*`` attributes that were not set their values. FluxError EINVAL for a bad one."""
    table = _table(config)
    topology = table.get("topo", "custom" if "bootstrap" in config else "kary:32")
    if "tbon.fanout" in attributes:
        topology = f"kary:{attributes.get('tbon.fanout')}"
    attributes.setdefault("tbon.topo", topology)
    for name in _NUMBERS:
        if name in table:
            attributes.setdefault(f"tbon.{name}", str(int(table[name])))
    for name, default in _TIMES.items():
        if name in table:
            attributes.setdefault(
                f"tbon.{name}", format_duration(_duration(table[name], f"Config file error parsing tbon.{name}"))
            )
        value = attributes.setdefault(f"tbon.{name}", default)
        word = "error" if name.startswith("torpid") else "Error"
        _duration(value, f"{word} parsing tbon.{name} attribute")
    check_torpid(attributes, {})


def check_torpid(attributes: Attributes, config: dict[str, Any]) -> dict[str, str]:
    """The attributes that a changed configuration changes. FluxError EINVAL if they contradict each other."""
    table, changes = _table(config), {}
    for name in ("torpid_min", "torpid_max"):
        if name in table:
            value = _duration(table[name], f"Config file error parsing tbon.{name}")
            changes[f"tbon.{name}"] = format_duration(value)
    low, high = (
        parse_duration(changes.get(name) or attributes.get(name) or "0")
        for name in ("tbon.torpid_min", "tbon.torpid_max")
    )
    if low == 0:
        raise FluxError(errno.EINVAL, "tbon.torpid_min must be nonzero")
    if high and not low < high:
        raise FluxError(errno.EINVAL, "tbon.torpid_min must be less than torpid_max")
    return changes


def topology(attributes: Attributes, boot: Boot) -> Topology:
    """The tree of this instance. ValueError, in Flux's words, for an unknown name."""
    uri = attributes.get("tbon.topo") or ""
    try:
        return Topology(uri, boot.size, custom_parents(boot.hosts) if boot.hosts else None)
    except ValueError as error:
        raise ValueError(f"error creating '{uri}' topology: {error}") from None


def endpoint(boot: Boot, rank: int, rundir: str) -> str:
    """The URI that children connect to: the configured one, or a socket in the rundir. FluxError if not ipc."""
    uri = boot.hosts[rank].get("bind") if boot.hosts else None
    if uri is None:
        return f"{IPC}{rundir}/tbon-{rank}"
    if not uri.startswith(IPC):
        text = f"cannot bind {uri}: embedded brokers talk over {IPC} only; install flux-core for several hosts"
        raise FluxError(errno.EPROTONOSUPPORT, text)
    return uri


def _table(config: dict[str, Any]) -> dict[str, Any]:
    table = config.get("tbon", {})
    if not isinstance(table, dict):
        raise FluxError(errno.EINVAL, "Config file error [tbon]: Expected object")
    for name in ("topo", *_TIMES):
        if not isinstance(table.get(name, ""), str):
            raise FluxError(errno.EINVAL, f"Config file error [tbon]: {name} is no string")
    for name in _NUMBERS:
        if not isinstance(table.get(name, 0), int):
            raise FluxError(errno.EINVAL, f"Config file error [tbon]: {name} is no integer")
    return table


def _duration(text: str | None, complaint: str) -> float:
    try:
        return parse_duration(text or "")
    except ProtocolError:
        raise FluxError(errno.EINVAL, complaint) from None
