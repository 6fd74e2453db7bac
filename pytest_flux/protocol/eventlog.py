"""Event logs: RFC 18. One event is a JSON object on a line of its own: timestamp, name, and perhaps a context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_flux.protocol.errors import ProtocolError

Event = dict[str, Any]
"""``{"timestamp": seconds, "name": str, "context"?: {}}``, with its members in this order."""


def make_event(name: str, context: dict[str, Any] | None = None, *, timestamp: float) -> Event:
    """A new event, at ``timestamp`` seconds since the epoch."""
    event: Event = {"timestamp": timestamp, "name": name}
    if context is not None:
        event["context"] = context
    return event


_encoders: list[Callable[[object], str]] = []


def encode_event(event: Event) -> str:
    """The line of an event, with its newline: compact JSON."""
    if not _encoders:
        import json

        # One for all, as json.dumps would make a new one each time: an instance writes thousands of events a second.
        _encoders.append(json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode)
    return _encoders[0](event) + "\n"


def decode_event(line: str) -> Event:
    """The event of one line, which may have its newline. Raises ProtocolError for whatever is none."""
    import json

    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"event is not JSON ({error})") from None
    if not isinstance(event, dict):
        raise ProtocolError("event is not a JSON object")
    timestamp = event.get("timestamp")
    if not isinstance(timestamp, (int, float)) or isinstance(timestamp, bool):
        raise ProtocolError("event has no timestamp")
    if not isinstance(event.get("name"), str):
        raise ProtocolError("event has no name")
    if not isinstance(event.get("context", {}), dict):
        raise ProtocolError("context of event is not a JSON object", event["name"][:80])
    return event


def decode_eventlog(text: str) -> list[Event]:
    """The events of a whole log.

    As in flux-core, whatever follows the last newline is left out: somebody may still be writing it. Only a log that
    has no newline at all is refused. Raises ProtocolError, with the number of the line.
    """
    lines = text.split("\n")
    if lines[:-1] == [] and text:
        raise ProtocolError("eventlog has no newline")
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(decode_event(line))
        except ProtocolError as error:
            raise ProtocolError(error.what, f"line {number} of eventlog") from None
    return events
