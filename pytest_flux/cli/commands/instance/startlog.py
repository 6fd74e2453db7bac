"""`flux startlog`: when the instance was started and shut down, and whether it has crashed."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.command import Command, CommandError
from pytest_flux.cli.moment import brief_duration
from pytest_flux.client.kvs import SYNC, Kvs
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import decode_eventlog, encode_event, make_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options
    from pytest_flux.protocol.eventlog import Event

_KEY = "admin.eventlog"
_VERSION = 1


def startlog(options: Options, context: Context) -> int:
    """Print a line for each run of the instance, or post an event as rc1 and rc3 do."""
    key = options.get("test-startlog-key", _KEY) or ""
    version = options.integer("test-startlog-version", _VERSION)
    with context.open() as flux:
        if options.has("post-start-event"):
            core = {"version": version, "core_version": flux.getattr("version")}
            _post(flux, key, "start", core, flags=SYNC)
        elif options.has("post-finish-event"):
            _post(flux, key, "finish", {"version": version})
        else:
            return _list(_fetch(flux, key), version, options)
    return 0


def _post(flux: Flux, key: str, name: str, context: dict[str, Any], *, flags: int = 0) -> None:
    if flux.rank > 0:
        raise CommandError("Startlog events may only be posted from rank 0")
    try:
        event = encode_event(make_event(name, context, timestamp=time.time()))
        Kvs(flux).transaction().append(key, event).commit(flags)
    except FluxError as error:
        raise CommandError(f"Error committing {name} event: {os.strerror(error.errnum)}") from None


def _fetch(flux: Flux, key: str) -> list[Event]:
    try:
        return decode_eventlog(Kvs(flux).get_text(key))
    except FluxError as error:
        raise CommandError(f"Error fetching eventlog: {os.strerror(error.errnum)}") from None
    except ProtocolError as error:
        raise CommandError(f"Error decoding eventlog: {error}") from None


def _list(events: list[Event], version: int, options: Options) -> int:
    """Print the runs. Return 1 if that is asked for, and the last run before this one crashed."""
    text, crashed = "", False
    started: float | None = None
    for event in events:
        context = event.get("context", {})
        if not isinstance(context.get("version"), int) or not 0 <= context["version"] <= version:
            continue
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(event["timestamp"]))
        if event["name"] == "start":
            if started is not None:
                text += "crashed\n"
                crashed = True
            if options.has("show-version"):
                text += f"{context.get('core_version', ''):>25}  "
            text += f"{when} - "
            started = event["timestamp"]
        elif event["name"] == "finish":
            if started is not None:
                text += f"{when} ({brief_duration(event['timestamp'] - started)})\n"
                crashed = False
            started = None
    if started is not None:
        text += f"running ({brief_duration(time.time() - started)})\n"
    if not options.has("quiet"):
        sys.stdout.write(text)
    return 1 if crashed and options.has("check") else 0


COMMANDS = (
    Command(
        "flux startlog",
        startlog,
        summary="List when the instance was started and shut down",
        options=(
            Option("check", usage="Exit with 1 if the last run of the instance crashed"),
            Option("quiet", usage="Print nothing"),
            Option("show-version", "v", usage="Print the version of the broker"),
            Option("post-start-event", hidden=True, usage="Note the start"),
            Option("post-finish-event", hidden=True, usage="Note the end"),
            Option("test-startlog-key", argument="KEY", hidden=True, usage="Use this key"),
            Option("test-startlog-version", argument="VERSION", hidden=True, usage="Use this version"),
        ),
        prefix="flux",
    ),
)
