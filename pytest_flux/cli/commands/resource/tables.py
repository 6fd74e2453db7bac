"""The tables of `flux resource list` and `flux resource status`."""

from __future__ import annotations

import json
import sys

from pytest_flux.cli.arguments import connect, queue_names, warn
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.format import Format
from pytest_flux.cli.named_formats import find_format
from pytest_flux.client.resources import STATES, ResourceList, Resources, ranks_of
from pytest_flux.options import OptionExit
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.resource_set import ResourceSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client.resources import Drain, ResourceStatus
    from pytest_flux.options import Options

LIST_FORMATS = {
    "default": (
        "Default flux-resource list format string",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?+:{ngpus:>5} {nodelist}",
    ),
    "rlist": (
        "Format including resource list details",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?:+{ngpus:>5} {rlist}",
    ),
}
LIST_HEADINGS = {name: name.upper() for name in "state queue properties nnodes ncores ngpus ranks nodelist".split()}
LIST_HEADINGS |= {"propertiesx": "PROPERTIES", "rlist": "LIST"}
_DISTINCT = ("state", "properties", "propertiesx", "queue")


class ResourceLine:
    """One line: resources in one state, of one queue, with the same properties."""

    def __init__(self, state: str, resources: ResourceSet, queues: dict[str, Any], shown: Collection[str]) -> None:
        self.state = state
        self.resources = resources
        self._queues = queues
        self._shown = shown

    def field(self, name: str) -> Any:  # noqa: ANN401
        """Return the value of a field."""
        resources = self.resources
        kinds = {"nnodes": "node", "ncores": "core", "ngpus": "gpu"}
        if name in kinds:
            return resources.count(kinds[name])
        properties = list(resources.properties)
        values = {
            "state": self.state,
            "ranks": resources.ranks,
            "nodelist": resources.nodelist,
            "rlist": resources.summary() if len(resources) else "",
            "properties": ",".join(properties),
            "propertiesx": ",".join(name for name in properties if name not in self._queues),
            "queue": self._queue(frozenset(properties)),
        }
        return values[name]

    def _queue(self, properties: frozenset[str]) -> str:
        if not len(self.resources):
            return ",".join(self._shown)
        names = (name for name in self._queues if name in self._shown)
        return ",".join(name for name in names if properties.issuperset(self._queues[name].get("requires", ())))


def query_resources(options: Options, states: list[str]) -> tuple[ResourceList, dict[str, Any]]:
    """Ask for resources and configured queues, and keep the resources that --queue and --include select."""
    for state in states:
        if state not in STATES:
            raise CommandError(f"Invalid resource state {state} specified")
    queues: dict[str, Any] = {}
    if "from-stdin" in options.names and options.has("from-stdin"):
        resources = ResourceList.decode(json.load(sys.stdin))
    else:
        with connect() as flux:
            config = flux.rpc("config.get")
            resources = Resources(flux).list()
            queues = config.get().get("queues", {})
    if options.has("queue"):
        resources = _only(resources, ranks_of_queues(resources.all, queues, options))
    if options.has("include"):
        resources = _only(resources, _included(options, resources.all))
    return resources, queues


def _included(options: Options, resources: ResourceSet) -> Collection[int]:
    """Return the ranks that --include names. Raises ValueError."""
    text = options.get("include") or ""
    try:
        return ranks_of(text, resources)
    except ValueError:
        raise ValueError(f"--include: Invalid hostlist: '{options.get('include')}'") from None


def _only(resources: ResourceList, ranks: Collection[int]) -> ResourceList:
    return resources.changed(lambda each: each.select(rank for rank in each if rank in ranks))


def ranks_of_queues(resources: ResourceSet, queues: dict[str, Any], options: Options) -> frozenset[int]:
    """Return the ranks of the queues that --queue names. Raises ValueError."""
    ranks: set[int] = set()
    for name in queue_names(options):
        if name not in queues:
            raise ValueError(f"--queue: {name}: no such queue")
        ranks.update(in_queue(resources, queues[name]))
    return frozenset(ranks)


def in_queue(resources: ResourceSet, queue: dict[str, Any]) -> ResourceSet:
    """Return the resources of a queue: those with all properties that it requires."""
    wanted = queue.get("requires", ())
    return resources.select(rank for rank in resources if resources.properties_of(rank).issuperset(wanted))


def print_list(options: Options, states_text: str, form: str, *, header: bool = True) -> None:
    """Print a line for each set of resources."""
    states = states_text.split(",")
    output = Format(find_format(form, LIST_FORMATS, "flux-resource", "list"), LIST_HEADINGS)
    resources, queues = query_resources(options, states)
    lines = _list_lines(resources, states, queues, queue_names(options) or list(queues), output)
    lines.sort(key=lambda line: (states.index(line.state), next(iter(line.resources), -1)))
    names = options.names
    skip = "skip-empty" in names and (
        options.has("skip-empty") or (options.has("include") and not options.has("no-skip-empty"))
    )
    if skip:
        lines = [line for line in lines if len(line.resources)]
    output.print(lines, header=header and not ("no-header" in names and options.has("no-header")))


def _list_lines(
    resources: ResourceList, states: list[str], queues: dict[str, Any], shown: list[str], output: Format
) -> list[ResourceLine]:
    """Merge resources into one line if the printed ones among state, queue and properties are the same."""
    fields = output.fields
    key_fields = [name for name in fields if name in _DISTINCT] if len(fields) > 1 or "state" in fields else []
    lines: dict[tuple[object, ...], ResourceLine] = {}
    for state in states:
        found = resources.of(state)
        groups = _by_properties(found)
        pieces = [ResourceLine(state, group, queues, shown) for group in groups]
        if not groups:
            pieces = [ResourceLine(state, found, queues, [name]) for name in shown]
            pieces = pieces or [ResourceLine(state, found, queues, ())]
        for piece in pieces:
            key = tuple(piece.field(name) for name in key_fields)
            if key in lines:
                lines[key].resources = lines[key].resources.union(piece.resources)
            else:
                lines[key] = piece
    return list(lines.values())


def _by_properties(resources: ResourceSet) -> list[ResourceSet]:
    groups: dict[frozenset[str], list[int]] = {}
    for rank in resources:
        groups.setdefault(resources.properties_of(rank), []).append(rank)
    return [resources.select(ranks) for ranks in groups.values()]


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
STATUS_HEADINGS = {name: name.upper() for name in "state nnodes ranks nodelist reason status up".split()}
STATUS_HEADINGS |= {"statex": "STATE", "timestamp": "TIME", "up.ascii": "UP", "color_up": "", "color_off": ""}

_VALID = "all online avail offline exclude drain draining drained torpid allocated housekeeping".split()
_DEFAULT = "avail exclude draining drained torpid housekeeping".split()
_GREEN, _RED, _RESET = "\033[01;32m", "\033[01;31m", "\033[0;0m"


class StatusLine:
    """One line: ranks in one state that are online, or offline; with the reason if they are drained."""

    def __init__(
        self, status: ResourceStatus, state: str, ranks: Iterable[int], *, online: bool, drain: Drain | None
    ) -> None:
        self._status = status
        self.state = state
        self.ranks = set(ranks)
        self.online = online
        self._drain = drain

    def field(self, name: str) -> Any:  # noqa: ANN401
        """Return the value of a field."""
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
    """Print the lines of `flux resource status`; with ``drained``, those of `flux resource drain`."""
    text = None if drained or "states" not in options.names else options.get("states")
    if text == "help":
        warn(context, f"valid states: {','.join(_VALID)}", "INFO")
        return
    states = _states("drain" if drained else text, context)
    formats, table = (DRAIN_FORMATS, "drain") if drained else (STATUS_FORMATS, "status")
    output = Format(find_format(options.get("format") or "default", formats, "flux-resource", table), STATUS_HEADINGS)
    if not color:
        output = output.without(("color_up", "color_off"))
    status = _ask(options)
    for state in ("draining", "drained"):
        if state in states or "all" in states:
            status.torpid -= status.of(state)
    skip_empty = drained or not text or ("skip-empty" in options.names and options.has("skip-empty"))
    lines = [
        line
        for line in merge(_status_lines(status, states), output)
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


def _ask(options: Options) -> ResourceStatus:
    with connect() as flux:
        config = flux.rpc("config.get")
        status = Resources(flux).status()
        if options.has("queue"):
            queues = config.get().get("queues", {})
            status.keep(ranks_of_queues(status.resources, queues, options))
    if options.has("include"):
        status.keep(_included(options, status.resources))
    return status


def _status_lines(status: ResourceStatus, states: set[str]) -> Iterator[StatusLine]:
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
    """Merge lines that would differ in their ranks only."""
    key_format = output.without(("nodelist", "ranks", "nnodes"), widths=False)
    merged: dict[str, StatusLine] = {}
    for line in lines:
        known = merged.setdefault(key_format.line(line), line)
        known.ranks |= line.ranks
    return list(merged.values())
