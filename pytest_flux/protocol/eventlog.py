"""Event logs (RFC 18, "Event Log Format"): one JSON object a line, with timestamp, name and an optional context."""

from __future__ import annotations

import json

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_value import compact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Event = dict[str, "Any"]
"""``{"timestamp": seconds, "name": str, "context"?: {}}``, with its members in this order."""


def make_event(name: str, context: dict[str, Any] | None = None, *, timestamp: float) -> Event:
    """A new event, at ``timestamp`` seconds since the epoch."""
    event: Event = {"timestamp": timestamp, "name": name}
    if context is not None:
        event["context"] = context
    return event


def encode_event(event: Event) -> str:
    """The line of an event, with its newline: compact JSON."""
    return compact(event) + "\n"


def decode_event(line: str) -> Event:
    """The event in one line, with or without its newline. Raises ProtocolError."""
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

    As in flux-core, the text after the last newline is ignored, because it may still be being written. A log without
    any newline is refused. Raises ProtocolError, which names the number of the line.
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
