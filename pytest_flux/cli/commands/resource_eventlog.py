"""`flux resource eventlog`: what has happened to resources."""

from __future__ import annotations

import errno
import json
import os
import sys
import time

from pytest_flux.cli.arguments import ArgumentCommand, color_is_on, connect
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.kvs_eventlog_format import EventFormatter
from pytest_flux.options import Option
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

    Event = dict[str, Any]

OPTIONS = (
    Option("format", "f", "FORMAT", usage="text or json"),
    Option("time-format", "T", "FORMAT", usage="raw, iso, offset or human"),
    Option("human", "H", usage="Print times for people"),
    Option("color", "L", "WHEN", optional=True, usage="Use color: never, always or auto (default)"),
    Option("follow", "F", usage="Print events as they come"),
    Option("timeout", "t", "TIME", usage="Follow or wait for no longer"),
    Option("wait", "w", "EVENT", usage="Print events until there is one of this name"),
    Option("match-context", "m", "KEY=VAL", usage="The event that is waited for has to have this in its context"),
    Option("include", "i", "TARGETS", usage="Only events about these ranks (an idset) or hosts"),
)
_CHOICES = {"format": ("text", "json"), "time-format": ("raw", "iso", "offset", "human", "reltime")}


class _Targets:
    """Ranks, or hosts, that events have to be about."""

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
        """Whether the event is about one of them."""
        context = event.get("context", {})
        if self._hosts and self._hosts & frozenset(decode_hostlist(context.get("nodelist", ""))):
            return True
        ranks = decode_idset(context.get("ranks", context.get("idset", "")))
        return bool(self._ranks.intersection(ranks))


def run(options: Options, context: Context) -> int:
    """Print the events."""
    assert isinstance(context.command, ArgumentCommand)
    for name, choices in _CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            known = ", ".join(map(repr, choices))
            raise context.command.parser().invalid(
                name, f"invalid choice: '{options.get(name)}' (choose from {known})"
            )
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
    with connect(context) as flux:
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
        try:
            wanted[key] = json.loads(text)
        except ValueError:
            wanted[key] = text
    return wanted
