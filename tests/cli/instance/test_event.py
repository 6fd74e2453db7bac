"""`flux event`."""

from __future__ import annotations

import errno

import pytest

from pytest_flux.cli.commands.instance.event import format_event
from pytest_flux.cli.flux import main
from pytest_flux.protocol.message import EVENT, FLAG_PRIVATE, Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]


def test_event_pub(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["event", "pub", "-s", "foo", '{"a":1}']) == 0
    assert capsys.readouterr().out == "seq=1\n"
    assert main(["event", "pub", "-l", "foo", "not", "json"]) == 0
    assert main(["event", "pub", "--raw", "--loopback", "foo", "a", "b"]) == 0
    assert main(["event", "pub", "-rl", "foo"]) == 0
    assert main(["event", "pub", "-slp", "foo"]) == 0
    assert capsys.readouterr().out == "seq=5\n"


def test_event_pub_sends_what_it_is_told(bed: ScriptedBroker) -> None:
    with_flags: list[tuple[bytes | None, bool]] = []
    original = bed.publish

    def publish(event: Message) -> int:
        with_flags.append((event.payload, bool(event.flags & FLAG_PRIVATE)))
        return original(event)

    bed.publish = publish  # type: ignore[method-assign]
    for words in ([], ["x", "y"], ["-r", "x"], ["-p"], ["-sp", "x"]):
        options = [word for word in words if word.startswith("-")]
        rest = [word for word in words if not word.startswith("-")]
        assert main(["event", "pub", "-l", *options, "foo", *rest]) == 0
    assert with_flags == [(None, False), (b"x y\0", False), (b"x", False), (None, True), (b"x\0", True)]


def test_event_sub(bed: ScriptedBroker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def subscribe(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        bed.subscribe(connection, request)
        if request.json()["topic"] == "last":
            for topic, payload in (("foo", None), ("foo.x", b'{"a": 1}\0'), ("bar", b""), ("last", b"a\1\xff")):
                bed.publish(Message(EVENT, topic, payload, routes=[]))

    bed.on("event.subscribe", subscribe)
    assert main(["event", "sub", "-c", "3", "foo", "last"]) == 0
    assert capsysbinary.readouterr().out == b'foo\t\nfoo.x\t{"a": 1}\nlast\ta..\n'
    assert bed.requests[-2:] == ["event.unsubscribe"] * 2


def test_event_sub_to_everything(bed: ScriptedBroker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def subscribe(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        bed.subscribe(connection, request)
        bed.publish(Message(EVENT, "any.thing", routes=[]))

    bed.on("event.subscribe", subscribe)
    assert main(["event", "sub", "--count=1"]) == 0
    assert capsysbinary.readouterr().out == b"any.thing\t\n"


def test_event_payload_in_utf8() -> None:
    event = Message(EVENT, "topic", '{"é":1}\0'.encode())
    assert format_event(event) == 'topic\t{"é":1}\n'.encode()


def test_event_that_is_refused(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("event.publish", errnum=errno.EPERM)
    bed.on("event.subscribe", errnum=errno.EPERM)
    assert main(["event", "pub", "-s", "foo"]) == 1
    assert main(["event", "sub", "foo"]) == 1
    assert capsys.readouterr().err == (
        "flux-event: publish failed: Operation not permitted\n"
        "flux-event: flux_event_subscribe: Operation not permitted\n"
    )
