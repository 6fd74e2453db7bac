"""`flux resource`: list resources, drain them, print their events."""

from __future__ import annotations

import errno
import json
import os
import sys
import time

from pytest_flux.cli.arguments import ArgumentCommand, color_is_on, connect, invalid, json_or_text, warn
from pytest_flux.cli.command import CommandError, reason
from pytest_flux.cli.commands.resource.tables import print_list, print_status, query_resources
from pytest_flux.cli.event_format import OPTIONS as FORMAT_OPTIONS
from pytest_flux.cli.event_format import EventFormatter
from pytest_flux.client.resources import Resources
from pytest_flux.options import Option
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

    Event = dict[str, Any]

_COLOR = Option("color", "L", "WHEN", optional=True, usage="Use color: never, always or auto (default)")
EVENTLOG_OPTIONS = (
    *FORMAT_OPTIONS,
    _COLOR,
    Option("follow", "F", usage="Print events as they come"),
    Option("timeout", "t", "TIME", usage="Follow or wait for no longer"),
    Option("wait", "w", "EVENT", usage="Print events until there is one of this name"),
    Option("match-context", "m", "KEY=VAL", usage="The event that is waited for has to have this in its context"),
    Option("include", "i", "TARGETS", usage="Only events about these ranks (an idset) or hosts"),
)
_CHOICES = {"format": ("text", "json"), "time-format": ("raw", "iso", "offset", "human", "reltime")}


class _Targets:
    """Ranks or hosts that events must be about."""

    def __init__(self, flux: Flux, text: str) -> None:
        hosts = decode_hostlist(flux.getattr("hostlist"))
        self._hosts: frozenset[str] = frozenset()
        try:
            self._ranks = frozenset(decode_idset(text))
        except ValueError:
            try:
                self._hosts = frozenset(decode_hostlist(text))
            except ValueError:
                raise ValueError(f"invalid targets {text}") from None
            for host in self._hosts.difference(hosts):
                raise ValueError(f"host '{host}' not found") from None
            self._ranks = frozenset(rank for rank, host in enumerate(hosts) if host in self._hosts)

    def match(self, event: Event) -> bool:
        """Return whether an event is about one of them."""
        context = event.get("context", {})
        if self._hosts and self._hosts & frozenset(decode_hostlist(context.get("nodelist", ""))):
            return True
        ranks = decode_idset(context.get("ranks", context.get("idset", "")))
        return bool(self._ranks.intersection(ranks))


def print_events(options: Options, context: Context) -> int:
    """Print the events."""
    for name, choices in _CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            known = ", ".join(map(repr, choices))
            raise invalid(context, name, f"invalid choice: '{options.get(name)}' (choose from {known})")
    times = "human" if options.has("human") else options.get("time-format") or "raw"
    formatter = EventFormatter(
        offset_width=15,
        unformatted=options.get("format") == "json" and not options.has("human"),
        timestamps="human" if times == "reltime" else times,
        color=color_is_on(options, context),
    )
    wanted = _context_of(options.all("match-context"))
    timeout = _duration(options.get("timeout") or "") if options.has("timeout") else None
    deadline = None if timeout is None else time.monotonic() + timeout
    awaited = options.get("wait")
    with connect() as flux:
        targets = _Targets(flux, options.get("include") or "") if options.has("include") else None
        rpc = flux.rpc("resource.journal", streaming=True)
        while True:
            try:
                events = rpc.get(None if deadline is None else max(deadline - time.monotonic(), 0))["events"]
            except TimeoutError:
                raise CommandError(f"ETIMEDOUT: {os.strerror(errno.ETIMEDOUT)}") from None
            except FluxError as error:
                if error.errnum == errno.ENODATA:
                    return 0
                raise
            if not events and not (options.has("follow") or awaited):
                return 0
            for event in events:
                if targets is not None and not targets.match(event):
                    continue
                sys.stdout.write(formatter.format(event))
                sys.stdout.flush()
                found = event.get("context", {})
                if event["name"] == awaited and all(found.get(key) == value for key, value in wanted.items()):
                    return 0


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError("invalid Flux standard duration") from None


def _context_of(words: list[str]) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            why = "missing '='" if not equals else "empty key"
            raise ValueError(f"invalid KEY=VAL argument: {word!r} ({why})")
        wanted[key] = json_or_text(text)
    return wanted


_FORMAT = Option("format", "o", "FORMAT", usage="The output format, or the name of one; 'help' lists those")
_STATES = Option("states", "s", "STATE,...", usage="Show resources in these states")
_STATE = Option("state", argument="STATE,...", hidden=True)
_INCLUDE = Option("include", "i", "TARGETS", usage="Only these ranks (an idset) or hosts")
_QUEUE = Option("queue", "q", "QUEUE,...", usage="Only the resources of these queues")
_NO_HEADER = Option("no-header", "n", usage="Print no header")
_SKIP = Option("skip-empty", usage="Leave out lines without resources")
_NO_SKIP = Option("no-skip-empty", usage="Print them in any case")
_FORCE = Option("force", "f", usage="Overwrite the reason; twice, the time also")
_UPDATE = Option("update", "u", usage="Leave those alone that are in that state already")
_REWRITES = {"state": ("states", str)}
_FROM = (Option("from-stdin", hidden=True), Option("config-file", argument="FILE", hidden=True))

DRAIN_OPTIONS = (_FORCE, _UPDATE, _INCLUDE, _QUEUE, _FORMAT, _NO_HEADER, _COLOR)
UNDRAIN_OPTIONS = (_UPDATE, _FORCE)
STATUS_OPTIONS = (_FORMAT, _STATES, _STATE, _INCLUDE, _QUEUE, _NO_HEADER, _COLOR, _SKIP)
LIST_OPTIONS = (_FORMAT, _STATES, _STATE, _INCLUDE, _QUEUE, _SKIP, _NO_SKIP, _NO_HEADER, *_FROM)
INFO_OPTIONS = (_STATES, _STATE, _INCLUDE, _QUEUE, *_FROM)
RELOAD_OPTIONS = (
    Option("xml", "x", usage="The path is a directory of hwloc XML"),
    Option("force", "f", usage="Allow ranks that are not in the instance"),
)


def _mode(options: Options) -> str | None:
    if options.has("update") and options.has("force"):
        raise CommandError("Only one of --force and --update may be specified")
    if options.has("update"):
        return "update"
    return {0: None, 1: "overwrite"}.get(options.count("force"), "force-overwrite")


def drain(options: Options, context: Context) -> int:
    """Drain ranks or hosts; without any, list those that are drained."""
    if not options.arguments:
        return _show_status(options, context, drained=True)
    targets, *words = options.arguments
    mode = _mode(options)
    with connect() as flux:
        try:
            Resources(flux).drain(targets, " ".join(words), mode=mode)
        except FluxError as error:
            context.log(f"[Errno {error.errnum}] {reason(error)}")
            if error.errnum == errno.EEXIST:
                warn(context, "Use --force to overwrite existing drain reason", "INFO")
            return 1
    return 0


def undrain(options: Options, context: Context) -> int:
    """Undrain ranks or hosts."""
    mode = _mode(options)
    if not options.arguments:
        raise context.command.parser().usage_error("the following arguments are required: targets, reason")
    targets, *words = options.arguments
    with connect() as flux:
        Resources(flux).undrain(targets, " ".join(words), mode=mode)
    return 0


def status(options: Options, context: Context) -> int:
    """Print which ranks are available, drained, excluded."""
    return _show_status(options, context, drained=False)


def _show_status(options: Options, context: Context, *, drained: bool) -> int:
    print_status(options, context, color=color_is_on(options, context), drained=drained)
    return 0


def list_resources(options: Options, context: Context) -> int:
    """Print free, allocated and missing resources."""
    print_list(options, options.get("states", "free,allocated,down") or "", options.get("format") or "default")
    return 0


def info(options: Options, context: Context) -> int:
    """Print the numbers of nodes, cores and GPUs."""
    form = "{nnodes} Nodes, {ncores} Cores, {ngpus} GPUs"
    print_list(options, options.get("states") or "all", form, header=False)
    return 0


def emit(options: Options, context: Context) -> int:
    """Print R (RFC 20)."""
    states = (options.get("states", "all") or "").split(",")
    resources, _ = query_resources(options, states)
    result = resources.of(states[0])
    for state in states[1:]:
        result = result.union(resources.of(state))
    result = result.replace(starttime=resources.all.starttime, expiration=resources.all.expiration)
    print(json.dumps(result.encode()))
    return 0


def reload(options: Options, context: Context) -> int:
    """Make the instance use other resources."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    path = os.path.realpath(options.arguments[0])
    request = {"path": path, "xml": options.has("xml"), "force": options.has("force")}
    with connect() as flux:
        flux.rpc("resource.reload", request, nodeid=0).get()
    return 0


def _subcommand(
    name: str, run: object, usage: str, options: tuple[Option, ...], *, permute: bool = True
) -> ArgumentCommand:
    assert callable(run)
    return ArgumentCommand(
        f"flux-resource {name}", run, usage=usage, options=options, permute=permute, rewrites=_REWRITES
    )


COMMANDS = (
    ArgumentCommand(
        "flux-resource",
        subcommands=(
            _subcommand("drain", drain, "[OPTIONS] [targets] [reason ...]", DRAIN_OPTIONS),
            _subcommand("undrain", undrain, "[OPTIONS] targets [reason ...]", UNDRAIN_OPTIONS),
            _subcommand("status", status, "[OPTIONS]", STATUS_OPTIONS),
            _subcommand("list", list_resources, "[OPTIONS]", LIST_OPTIONS),
            _subcommand("info", info, "[OPTIONS]", INFO_OPTIONS),
            _subcommand("R", emit, "[OPTIONS]", INFO_OPTIONS),
            _subcommand("reload", reload, "[OPTIONS] path", RELOAD_OPTIONS),
            _subcommand("eventlog", print_events, "[OPTIONS]", EVENTLOG_OPTIONS),
        ),
    ),
)
