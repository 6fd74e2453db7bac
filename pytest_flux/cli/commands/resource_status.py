"""`flux resource status` and the list of `flux resource drain`."""

from __future__ import annotations

from pytest_flux.cli.arguments import connect, warn
from pytest_flux.cli.commands.resource_list import ranks_of_queues
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.resources import Resources, ranks_of
from pytest_flux.options import OptionExit
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import encode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.client.resources import Drain, ResourceStatus
    from pytest_flux.options import Options

STATUS_FORMATS = {
    "default": (
        "Default flux-resource status format string",
        "{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} {nodelist}",
    ),
    "long": (
        "Long flux-resource status format string",
        "{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} +:{reason:<30.30} {nodelist}",
    ),
}
DRAIN_FORMATS = {
    "long": (
        "Long flux-resource drain format string",
        "{timestamp!d:%b%d %R::<12} {state:<8.8} {ranks:<8.8+} +:{reason:<30.30} {nodelist}",
    ),
    "default": (
        "Default flux-resource drain format string",
        "{timestamp!d:%b%d %R::<12} {state:<8.8} {reason:<30.30+} {nodelist}",
    ),
}
HEADINGS = {name: name.upper() for name in "state nnodes ranks nodelist reason status up".split()}
HEADINGS |= {"statex": "STATE", "timestamp": "TIME", "up.ascii": "UP", "color_up": "", "color_off": ""}

_VALID = "all online avail offline exclude drain draining drained torpid allocated housekeeping".split()
_DEFAULT = "avail exclude draining drained torpid housekeeping".split()
_GREEN, _RED, _RESET = "\033[01;32m", "\033[01;31m", "\033[0;0m"


class StatusLine:
    """One line: ranks in one state, that are online, or not; and, if they are drained, why."""

    def __init__(
        self, status: ResourceStatus, state: str, ranks: Iterable[int], *, online: bool, drain: Drain | None
    ) -> None:
        self._status = status
        self.state = state
        self.ranks = set(ranks)
        self.online = online
        self._drain = drain

    def field(self, name: str) -> Any:  # noqa: ANN401
        """The value of a field."""
        hosts = self._status.hosts(self.ranks)
        drain = self._drain
        values = {
            "state": self.state if self.online else f"{self.state}*",
            "statex": self.state,
            "nnodes": len(hosts),
            "ranks": encode_idset(self.ranks),
            "nodelist": encode_hostlist(sorted(hosts)),
            "reason": drain.reason if drain else "",
            "timestamp": drain.timestamp if drain else "",
            "status": "online" if self.online else "offline",
            "up": "✔" if self.online else "✗",
            "up.ascii": "y" if self.online else "n",
            "color_up": _GREEN if self.online else _RED,
            "color_off": _RESET,
        }
        return values[name]


def print_status(options: Options, context: Context, *, color: bool, drained: bool) -> None:
    """Print the lines; with ``drained``, those of `flux resource drain`."""
    text = None if drained or "states" not in options.names else options.get("states")
    if text == "help":
        warn(context, f"valid states: {','.join(_VALID)}", "INFO")
        return
    states = _states("drain" if drained else text, context)
    formats, table = (DRAIN_FORMATS, "drain") if drained else (STATUS_FORMATS, "status")
    output = Format(find_format(options.get("format") or "default", formats, "flux-resource", table), HEADINGS)
    if not color:
        output = output.without(("color_up", "color_off"))
    status = _ask(options, context)
    for state in ("draining", "drained"):
        if state in states or "all" in states:
            status.torpid -= status.of(state)
    skip_empty = drained or not text or ("skip-empty" in options.names and options.has("skip-empty"))
    lines = [
        line
        for line in merge(_lines(status, states), output)
        if line.field("nnodes") or not (skip_empty or (not line.online and "offline" not in states))
    ]
    output.print(lines, header=not options.has("no-header"))


def _states(text: str | None, context: Context) -> set[str]:
    states = (text or ",".join(_DEFAULT)).split(",")
    for state in states:
        if state not in _VALID:
            context.log(f"Invalid resource state {state} specified")
            warn(context, f"valid states: {','.join(_VALID)}", "INFO")
            raise OptionExit(1, "")
    if not set(states) - {"online", "offline"}:
        states += _DEFAULT
    if "drain" in states:
        states += ["draining", "drained"]
    return set(states)


def _ask(options: Options, context: Context) -> ResourceStatus:
    with connect(context) as flux:
        config = flux.rpc("config.get")
        status = Resources(flux).status()
        if options.has("queue"):
            queues = config.get().get("queues", {})
            status.keep(ranks_of_queues(status.resources, queues, options))
    if options.has("include"):
        try:
            status.keep(ranks_of(options.get("include") or "", status.resources))
        except ValueError:
            raise ValueError(f"--include: Invalid hostlist: '{options.get('include')}'") from None
    return status


def _lines(status: ResourceStatus, states: set[str]) -> Iterator[StatusLine]:
    both = not states & {"online", "offline"} or {"online", "offline"} <= states
    shown = {online: both or ("online" if online else "offline") in states for online in (True, False)}
    for state in ("avail", "exclude", "allocated", "torpid", "housekeeping"):
        for online in (True, False):
            if states & {state, "all"} and shown[online]:
                present = status.online if online else status.offline
                yield StatusLine(status, state, status.of(state) & present, online=online, drain=None)
    for state in ("draining", "drained"):
        if not states & {state, "all"}:
            continue
        ranks = sorted(status.of(state))
        if not ranks and shown[True]:
            yield StatusLine(status, state, (), online=True, drain=None)
        for rank in ranks:
            online = rank in status.online
            if shown[online]:
                yield StatusLine(status, state, (rank,), online=online, drain=status.drains[rank])


def merge(lines: Iterable[StatusLine], output: Format) -> list[StatusLine]:
    """Lines that would look the same but for their ranks become one."""
    key_format = output.without(("nodelist", "ranks", "nnodes"), widths=False)
    merged: dict[str, StatusLine] = {}
    for line in lines:
        known = merged.setdefault(key_format.line(line), line)
        known.ranks |= line.ranks
    return list(merged.values())
