"""`flux event`: publish events, and watch them."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.command import Command, Context, naming
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options
    from pytest_flux.protocol.message import Message

PUB_OPTIONS = (
    Option("raw", "r", usage="The payload is bytes, not JSON"),
    Option("synchronous", "s", usage="Wait for the event's sequence number, and print it"),
    Option("loopback", "l", usage="Wait until the event has come back"),
    Option("private", "p", usage="Only the instance owner gets to see it"),
)
SUB_OPTIONS = (Option("count", "c", "N", usage="Stop after N events"),)


def publish(options: Options, context: Context) -> int:
    """Publish one event; words after the topic are its payload."""
    if not options.arguments:
        raise context.command.usage_error()
    topic, *words = options.arguments
    payload: bytes | None = None
    if words:
        # A string payload includes its NUL (RFC 3). Flux does not check here that it is JSON.
        payload = os.fsencode(" ".join(words)) + (b"" if options.has("raw") else b"\0")
    with context.open() as flux:
        if options.has("loopback"):
            _subscribe(flux, [topic])
        _send(flux, topic, payload, options)
        while options.has("loopback"):
            event = flux.event_recv()
            if event.topic == topic and (event.payload or None) == (payload or None):
                break
    return 0


def _send(flux: Flux, topic: str, payload: bytes | None, options: Options) -> None:
    private = options.has("private")
    if not options.has("synchronous"):
        flux.send_event(topic, payload, private=private)
        return
    with naming("publish failed"):
        print(f"seq={flux.publish(topic, payload, private=private)}", flush=True)


def subscribe(options: Options, context: Context) -> int:
    """Print events as they come, one a line; all events if no topic is given."""
    count = options.integer("count", 0)
    topics = options.arguments or [""]
    with context.open() as flux:
        _subscribe(flux, topics)
        received = 0
        while count <= 0 or received < count:
            sys.stdout.buffer.write(format_event(flux.event_recv()))
            sys.stdout.buffer.flush()
            received += 1
        for topic in topics:
            flux.unsubscribe(topic)
    return 0


def _subscribe(flux: Flux, topics: list[str]) -> None:
    with naming("flux_event_subscribe"):
        for topic in topics:
            flux.subscribe(topic)


def format_event(event: Message) -> bytes:
    """Format topic, tab and payload. In a raw payload, dots replace bytes that are not printable."""
    payload = event.payload or b""
    if payload.endswith(b"\0"):
        payload = payload.rstrip(b"\0")
    else:
        payload = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in payload)
    return b"%s\t%s\n" % ((event.topic or "").encode(), payload)


COMMANDS = (
    Command(
        "flux-event",
        subcommands=(
            Command("flux-event pub", publish, usage="[OPTIONS] topic [payload]", options=PUB_OPTIONS),
            Command("flux-event sub", subscribe, usage="[OPTIONS] [topic...]", options=SUB_OPTIONS),
        ),
    ),
)
