"""`flux uptime`: how long the instance has been running, in one or two lines."""

from __future__ import annotations

import errno
import time

from pytest_flux.cli.command import Command, CommandError, Context, explaining, naming, reason
from pytest_flux.client.clock import instance_time
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

_UNITS = ((60.0, 1.0, "s"), (3600.0, 60.0, "m"), (86400.0, 3600.0, "h"), (float("inf"), 86400.0, "d"))


def uptime(options: Options, context: Context) -> int:
    """Print one or two lines."""
    del options
    with context.open() as flux:
        owner = _attribute(flux, "security.owner")
        size = int(_attribute(flux, "size"))
        depth = _attribute(flux, "instance-level")
        state = _ask(flux, "state-machine.get", None, "Error fetching broker state", any_rank=True)
        now = instance_time(flux)
        duration = float(state["duration"])
        extra = notes = ""
        if state["state"] == "run":
            duration = now - _start_time(flux)
            extra = _count_nodes(flux, size)
            notes = ",  ".join(_queue_notes(flux))
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    text = format_uptime(duration)
    print(f" {clock} {state['state']} {text},  owner {_user_name(int(owner))},  depth {depth},  size {size}{extra}")
    if notes:
        print(f"  {notes}")
    return 0


def format_uptime(seconds: float) -> str:
    """Format a Flux Standard Duration with two significant digits."""
    if 0 != seconds < 0.1:
        return f"{seconds * 1000:.2g}ms"
    scale, unit = next((scale, unit) for limit, scale, unit in _UNITS if seconds < limit)
    return f"{seconds / scale:.2g}{unit}"


def _ask(
    flux: Flux, topic: str, payload: dict[str, Any] | None, complaint: str, *, any_rank: bool = False
) -> dict[str, Any]:
    rpc = flux.rpc(topic, payload) if any_rank else flux.rpc(topic, payload, nodeid=0)
    with explaining(f"{complaint}"):
        return rpc.get()


def _ask_optional(flux: Flux, topic: str, payload: dict[str, Any] | None, complaint: str) -> dict[str, Any]:
    """Ask as ``_ask`` does, but return nothing if the service does not exist, as in instances without jobs."""
    try:
        return flux.rpc(topic, payload, nodeid=0).get()
    except FluxError as error:
        if error.errnum != errno.ENOSYS:
            raise CommandError(f"{complaint}: {reason(error)}") from None
        return {}


def _attribute(flux: Flux, name: str) -> str:
    with naming(f"Error fetching {name} attribute"):
        return flux.getattr(name)


def _start_time(flux: Flux) -> float:
    name = "broker.starttime"
    answer = _ask(flux, "attr.get", {"name": name}, f"Error fetching {name} attribute")
    try:
        return float(answer["value"])
    except ValueError:
        raise CommandError(f"Error parsing {name}") from None


def _count_nodes(flux: Flux, size: int) -> str:
    drain = _ask_optional(flux, "resource.status", None, "Error fetching resource status").get("drain", {})
    drained = sum(len(decode_idset(ranks)) for ranks in drain)
    group = "broker.online"
    online = _ask(flux, "groups.get", {"name": group}, f"Error fetching {group} group")["members"]
    offline = size - len(decode_idset(online))
    return "".join(f",  {count} {what}" for count, what in ((drained, "drained"), (offline, "offline")) if count > 0)


def _queue_notes(flux: Flux) -> list[str]:
    queues = _ask_optional(flux, "job-manager.queue-list", None, "queue-list")
    if not queues:
        return []
    requests: list[dict[str, Any]] = [{"name": name} for name in queues["queues"]] or [{}]
    complaint = "Error fetching queue status"
    states = [_ask(flux, "job-manager.queue-status", request, complaint) for request in requests]
    notes = (("enable", "submit disabled"), ("start", "scheduler stopped"))
    return [note for key, note in notes if not any(state[key] for state in states)]


def _user_name(userid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(userid).pw_name
    except KeyError:
        return str(userid)


COMMANDS = (
    Command(
        "flux uptime",
        uptime,
        usage="[OPTIONS]...",
        summary="Tell how long the instance has been running",
        prefix="flux",
    ),
)
