"""`flux kvs eventlog`: logs of events (RFC 18) that are values of keys."""

from __future__ import annotations

import errno
import json
import os
import time

from pytest_flux.cli.command import COLOR, Command, CommandError, Context, naming, wants_color
from pytest_flux.cli.commands.kvs.namespace import NAMESPACE, open_kvs
from pytest_flux.cli.event_format import EventFormatter
from pytest_flux.cli.stdio import encode, write
from pytest_flux.client.kvs import STREAM, WAITCREATE, WATCH, WATCH_APPEND, value_of
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import decode_eventlog, encode_event, make_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Rpc
    from pytest_flux.options import Options

_WAITCREATE = Option("waitcreate", "W", usage="Wait for a key that does not exist yet")
_FORMAT = (
    Option("unformatted", "u", usage="Print events as they are, in JSON (RFC 18)"),
    Option("human", "H", usage="Print times for people"),
    COLOR,
)
APPEND_OPTIONS = (NAMESPACE, Option("timestamp", "t", "SECONDS", usage="When it was, since the epoch; otherwise now"))
GET_OPTIONS = (
    NAMESPACE,
    _WAITCREATE,
    Option("watch", "w", usage="Print events that are appended, too"),
    Option("count", "c", "COUNT", usage="With --watch: stop after so many events"),
    *_FORMAT,
    Option("stream", "S", usage="Have a long log sent in pieces"),
)
WAIT_OPTIONS = (
    NAMESPACE,
    _WAITCREATE,
    Option("timeout", "t", "DURATION", usage="Do not wait longer than this (RFC 23)"),
    Option("quiet", "q", usage="Do not print the event"),
    Option("verbose", "v", usage="Print the events before it, too"),
    *_FORMAT,
)


def append(options: Options, context: Context) -> int:
    """Append one event."""
    if len(options.arguments) < 2:
        raise context.command.usage_error()
    key, name, *words = options.arguments
    text = options.get("timestamp", "0") or ""
    try:
        timestamp = float(text)
    except ValueError:
        raise CommandError(f"append: Option 'timestamp' requires a floating point argument, not '{text}'") from None
    try:
        event = _make(name, words, timestamp)
    except ValueError:
        raise CommandError(f"eventlog_entry_create: {os.strerror(errno.EINVAL)}") from None
    with context.open() as flux:
        transaction = open_kvs(flux, options).transaction()
        with naming("flux_kvs_txn_put"):
            transaction.append(key, encode(encode_event(event)))
        with naming("flux_kvs_commit"):
            transaction.commit()
    return 0


def _make(name: str, words: list[str], timestamp: float) -> dict[str, Any]:
    found = json.loads(" ".join(words)) if words else None
    if not name or timestamp < 0 or (words and not isinstance(found, dict)):
        raise ValueError
    return make_event(name, found, timestamp=timestamp or time.time())


def get(options: Options, context: Context) -> int:
    """Print events."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    maximum = options.integer("count", 0)
    formatter = _formatter(options, context)
    is_watch, is_stream = options.has("watch"), options.has("stream")
    flags = (WATCH | WATCH_APPEND if is_watch else 0) | (STREAM if is_stream else 0)
    flags |= WAITCREATE if options.has("waitcreate") else 0
    with context.open() as flux, naming("flux_kvs_lookup_get"):
        if is_watch and is_stream:
            raise CommandError(f"flux_kvs_lookup: {os.strerror(errno.EINVAL)}")
        rpc = open_kvs(flux, options).lookup(options.arguments[0], flags)
        count = 0
        while True:
            try:
                events = _events(rpc)
            except FluxError as error:
                if error.errnum == errno.ENODATA and (is_watch or is_stream):
                    return 0
                raise
            for event in events:
                if not is_watch or not maximum or count < maximum:
                    write(encode(formatter.format(event)))
                count += 1
                if is_watch and count == maximum:
                    rpc.cancel()
            if not is_watch and not is_stream:
                return 0


def wait_event(options: Options, context: Context) -> int:
    """Wait for an event."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    formatter = _formatter(options, context)
    timeout = options.duration("timeout", -1.0)
    key, wanted = options.arguments
    flags = WATCH | WATCH_APPEND | (WAITCREATE if options.has("waitcreate") else 0)
    with context.open() as flux, naming("flux_kvs_lookup_get"):
        rpc = open_kvs(flux, options).lookup(key, flags)
        rpc.timeout = timeout if timeout >= 0 else None
        try:
            while not _find(_events(rpc), wanted, formatter, options):
                pass
        except TimeoutError:
            raise CommandError(f"wait-event timeout on event '{wanted}'") from None
        except FluxError as error:
            if error.errnum == errno.ENOENT:
                raise CommandError(f"eventlog path {key} not found") from None
            if error.errnum == errno.ENODATA:
                raise CommandError(f"event '{wanted}' never received") from None
            raise
    return 0


def _find(events: list[dict[str, Any]], wanted: str, formatter: EventFormatter, options: Options) -> bool:
    for event in events:
        is_wanted = event["name"] == wanted
        formatter.start(event["timestamp"])
        if (is_wanted and not options.has("quiet")) or (not is_wanted and options.has("verbose")):
            write(encode(formatter.format(event)))
        if is_wanted:
            return True
    return False


def _events(rpc: Rpc) -> list[dict[str, Any]]:
    text = value_of(rpc.get()).value().decode("utf-8", "surrogateescape")
    try:
        return decode_eventlog(text)
    except ProtocolError:
        raise CommandError("cannot decode improperly formatted eventlog") from None


def _formatter(options: Options, context: Context) -> EventFormatter:
    unformatted, human = options.has("unformatted"), options.has("human")
    color = wants_color(options, context)
    if unformatted and (human or options.get("color", "") == "always"):
        context.log("Do not specify --unformatted with --human or --color=always")
        raise CommandError("failed to create eventlog formatter")
    return EventFormatter(unformatted=unformatted, timestamps="human" if human else "raw", color=color)


EVENTLOG = Command(
    "flux-kvs eventlog",
    summary="Append to event logs, print them, wait for events",
    subcommands=(
        Command(
            "flux-kvs eventlog append",
            append,
            usage="[OPTIONS] key name [context ...]",
            summary="Append an event; its context is a JSON object",
            options=APPEND_OPTIONS,
        ),
        Command("flux-kvs eventlog get", get, usage="[OPTIONS] key", summary="Print events", options=GET_OPTIONS),
        Command(
            "flux-kvs eventlog wait-event",
            wait_event,
            usage="[OPTIONS] key event",
            summary="Wait for an event",
            options=WAIT_OPTIONS,
        ),
    ),
)
