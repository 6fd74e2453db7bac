"""The blocking handle, against a small broker."""

from __future__ import annotations

import errno
import os
import select
import threading
import time

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.core import NODEID_UPSTREAM
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import FLAG_UPSTREAM, ROLE_NONE, Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker, open_broker

WAIT = 10.0


def test_answer_is_the_json_object(flux: Flux) -> None:
    assert flux.rpc("echo.echo", {"a": [1, "é"]}).get() == {"a": [1, "é"]}


def test_no_payload_is_an_empty_object(flux: Flux) -> None:
    assert flux.rpc("echo.echo").get() == {}
    assert flux.rpc("echo.echo").get_bytes() == b""


def test_raw_payload(flux: Flux) -> None:
    rpc = flux.rpc("echo.echo", b"\x00\xff")
    assert rpc.get_bytes() == b"\x00\xff"
    assert rpc.get_bytes() == b"\x00\xff"
    with pytest.raises(ProtocolError):
        rpc.get()


def test_text_payload(flux: Flux) -> None:
    assert flux.rpc("echo.echo", b"a line\0").get_text() == "a line"


def test_errors_carry_number_and_text(broker: ScriptedBroker, flux: Flux) -> None:
    rpc = flux.rpc("nosuch.thing")
    with pytest.raises(FluxError, match=r"No service matching nosuch\.thing is registered") as caught:
        rpc.get()
    assert caught.value.errnum == errno.ENOSYS
    with pytest.raises(FluxError):
        rpc.get()
    broker.on("a.b", errnum=errno.ENOENT)
    with pytest.raises(FluxError, match=os.strerror(errno.ENOENT)) as caught:
        flux.rpc("a.b").get()
    assert caught.value.text is None


def test_many_calls_at_once_in_any_order(broker: ScriptedBroker, flux: Flux) -> None:
    held: list[tuple[Connection, Message]] = []

    def hold(broker: ScriptedBroker, connection: Connection, request: Message) -> None:
        held.append((connection, request))
        if len(held) == 100:
            for waiting in reversed(held):
                broker.answer(waiting[0], waiting[1], waiting[1].payload)

    broker.on("slow.echo", hold)
    calls = [flux.rpc("slow.echo", {"number": number}) for number in range(100)]
    assert [call.matchtag for call in calls] == list(range(1, 101))
    assert [call.get(WAIT)["number"] for call in calls] == list(range(100))


def test_payload_larger_than_any_buffer(flux: Flux) -> None:
    data = os.urandom(8 << 20)
    calls = [flux.rpc("echo.echo", data) for _ in range(3)]
    assert all(call.get_bytes(WAIT) == data for call in calls)


def test_sending_leaves_what_has_come_to_the_loop_that_waits(broker: ScriptedBroker, flux: Flux) -> None:
    broker.on("mute.ask", lambda *_: None)
    answers: list[str] = []
    flux.rpc("echo.echo", b"first").then(lambda rpc: answers.append(rpc.get_text()))
    assert select.select([flux], [], [], WAIT)[0]
    flux.rpc("mute.ask")
    flux.post("mute.ask")
    assert select.select([flux], [], [], 0)[0]
    flux.dispatch()
    assert answers == ["first"]


def test_timeout_says_what_was_waited_for(broker: ScriptedBroker, flux: Flux) -> None:
    broker.on("mute.ask", lambda *_: None)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no response to mute\.ask from rank 3 within 0\.01 s") as caught:
        flux.rpc("mute.ask", nodeid=3, timeout=0.01).get()
    assert 0.01 <= time.monotonic() - started < 4
    assert broker.uri in str(caught.value)
    with pytest.raises(TimeoutError, match="no event within"):
        flux.event_recv(0)


def test_abandoned_call_cannot_be_waited_for(broker: ScriptedBroker, flux: Flux) -> None:
    broker.on("mute.ask", lambda *_: None)
    rpc = flux.rpc("mute.ask")
    rpc.abandon()
    with pytest.raises(ValueError, match=r"mute\.ask was abandoned"):
        rpc.get()


def test_stream(broker: ScriptedBroker, flux: Flux) -> None:
    def count(broker: ScriptedBroker, connection: Connection, request: Message) -> None:
        for number in range(request.json()["count"]):
            broker.answer(connection, request, {"number": number})
        broker.answer(connection, request, errnum=errno.ENODATA)

    broker.on("count.up", count)
    rpc = flux.rpc("count.up", {"count": 3}, streaming=True)
    assert [answer["number"] for answer in rpc] == [0, 1, 2]
    assert rpc.finished
    assert list(flux.rpc("count.up", {"count": 0}, streaming=True)) == []


def test_stream_that_fails(broker: ScriptedBroker, flux: Flux) -> None:
    broker.on("count.up", errnum=errno.EPERM)
    with pytest.raises(FluxError):
        list(flux.rpc("count.up", streaming=True))


def test_cancel_ends_the_stream(broker: ScriptedBroker, flux: Flux) -> None:
    watching: list[tuple[Connection, Message]] = []

    def watch(broker: ScriptedBroker, connection: Connection, request: Message) -> None:
        watching.append((connection, request))
        broker.answer(connection, request, {"first": True})

    def cancel(broker: ScriptedBroker, _: Connection, request: Message) -> None:
        connection, original = watching[0]
        assert request.json() == {"matchtag": original.matchtag}
        broker.answer(connection, original, errnum=errno.ENODATA)

    broker.on("kvs-watch.lookup", watch)
    broker.on("kvs-watch.cancel", cancel)
    rpc = flux.rpc("kvs-watch.lookup", {}, streaming=True, nodeid=0)
    assert rpc.get(WAIT) == {"first": True}
    rpc.cancel()
    assert list(rpc) == []
    rpc.cancel()  # too late, and harmless
    flux.rpc("echo.echo").get(WAIT)
    assert broker.requests.count("kvs-watch.cancel") == 1


def test_callbacks(flux: Flux) -> None:
    seen: list[int] = []
    for number in range(5):
        flux.rpc("echo.echo", {"number": number}).then(lambda rpc: seen.append(rpc.get()["number"]))
    assert flux.rpc("echo.echo", {"number": 99}).get(WAIT) == {"number": 99}
    assert seen == []  # only dispatch calls back
    while len(seen) < 5:
        flux.dispatch(WAIT)
    assert seen == [0, 1, 2, 3, 4]


def test_callback_for_what_is_here_already(flux: Flux) -> None:
    rpc = flux.rpc("echo.echo", {"a": 1})
    flux.rpc("echo.echo").get(WAIT)
    assert rpc.is_ready()
    seen: list[dict[str, int]] = []
    rpc.then(lambda rpc: seen.append(rpc.get()))
    flux.dispatch()
    assert seen == [{"a": 1}]


def test_upstream_begins_at_our_rank(broker: ScriptedBroker, flux: Flux) -> None:
    broker.attributes["rank"] = "2"
    flux.rpc("echo.echo", nodeid=NODEID_UPSTREAM).get(WAIT)
    assert broker.received[-1].flags & FLAG_UPSTREAM
    assert broker.received[-1].nodeid == 2


def test_attributes(broker: ScriptedBroker, flux: Flux) -> None:
    assert (flux.rank, flux.size) == (0, 4)
    assert flux.getattr("test.count") == "1"
    flux.setattr("test.count", "2")
    assert flux.getattr("test.count") == "2"
    assert flux.lsattr() == sorted([*broker.attributes, "parent-uri"])
    with pytest.raises(FluxError) as caught:
        flux.getattr("parent-uri")
    assert caught.value.errnum == errno.ENOENT
    with pytest.raises(FluxError, match="unknown attribute"):
        flux.setattr("nosuch", "1")


def test_immutable_attributes_are_asked_for_once(broker: ScriptedBroker, flux: Flux) -> None:
    for _ in range(3):
        assert flux.size == 4
        assert flux.getattr("test.count") == "1"
    assert broker.requests.count("attr.get") == 4


def test_events(broker: ScriptedBroker, flux: Flux) -> None:
    flux.subscribe("foo")
    assert flux.publish("foo.one", {"a": 1}) == 1
    assert flux.publish("bar", {"a": 2}) == 2
    flux.send_event("foo", b"\xff")
    first, second = flux.event_recv(WAIT), flux.event_recv(WAIT)
    assert (first.topic, first.json(), first.sequence) == ("foo.one", {"a": 1}, 1)
    assert (second.topic, second.payload, second.sequence) == ("foo", b"\xff", 3)
    flux.unsubscribe("foo")
    flux.publish("foo.two")
    assert not flux.events
    with pytest.raises(FluxError):
        flux.unsubscribe("foo")


def test_a_service_of_ours(broker: ScriptedBroker, flux: Flux) -> None:
    flux.service_add("mine")
    with pytest.raises(FluxError):
        flux.service_add("mine")
    with Flux(broker.uri) as other:
        call = other.rpc("mine.add", {"x": 1, "y": 2})
        request = flux.request_recv(WAIT)
        assert (request.topic, request.rolemask) == ("mine.add", 5)
        flux.respond(request, {"sum": sum(request.json().values())})
        assert call.get(WAIT) == {"sum": 3}

        call = other.rpc("mine.count", streaming=True)
        request = flux.request_recv(WAIT)
        for number in range(3):
            flux.respond(request, {"number": number})
        flux.respond_error(request, errno.ENODATA)
        assert [answer["number"] for answer in call] == [0, 1, 2]

        call = other.rpc("mine.fail")
        flux.respond_error(flux.request_recv(WAIT), errno.EINVAL, "not like that")
        with pytest.raises(FluxError, match="not like that"):
            call.get(WAIT)
    flux.service_remove("mine")


def test_post_is_not_answered(broker: ScriptedBroker, flux: Flux) -> None:
    broker.on("note.take", lambda *_: None)
    flux.post("note.take", {"a": 1})
    assert flux.rpc("echo.echo").get(WAIT) == {}
    assert broker.requests[-2:] == ["note.take", "echo.echo"]


def test_uri_comes_from_the_environment(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_URI", broker.uri)
    with Flux() as flux:
        assert flux.uri == broker.uri


def test_test_credentials_come_from_the_environment(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HANDLE_USERID", "4242")
    monkeypatch.setenv("FLUX_HANDLE_ROLEMASK", "0x2")
    with Flux(broker.uri) as flux:
        flux.rpc("echo.echo").get(WAIT)
    assert (broker.received[-1].userid, broker.received[-1].rolemask) == (4242, 2)


@pytest.mark.parametrize("uri", ["bogus", "ssh://host", "local://", "local:///" + "x" * 200])
def test_uri_that_is_none(uri: str) -> None:
    with pytest.raises(ValueError, match="cannot connect to") as caught:
        Flux(uri)
    assert uri in str(caught.value)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_LOCAL_CONNECTOR_RETRY_COUNT", "0")
    with pytest.raises(FileNotFoundError) as caught:
        Flux("local:///nonexistent/local")
    assert caught.value.filename == "local:///nonexistent/local"


@pytest.mark.parametrize("count", ["x", "-1", ""])
def test_retry_count_that_is_none(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_LOCAL_CONNECTOR_RETRY_COUNT", count)
    with pytest.raises(ValueError, match="not a number of retries"):
        Flux("local:///nonexistent/local")


def test_a_broker_that_is_just_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    with open_broker() as broker:
        hidden = f"{broker.directory}/hidden"
        os.rename(f"{broker.directory}/local", hidden)

        def appear_on_third_try(delay: float) -> None:
            delays.append(delay)
            if len(delays) == 3:
                os.rename(hidden, f"{broker.directory}/local")

        monkeypatch.setattr("time.sleep", appear_on_third_try)
        with Flux(broker.uri) as flux:
            assert flux.size == 4
    assert delays == [0.016, 0.032, 0.064]


def test_refused() -> None:
    with open_broker(lambda _: ROLE_NONE) as broker, pytest.raises(PermissionError) as caught:
        Flux(broker.uri)
    assert caught.value.filename == broker.uri


def test_broker_goes_away(broker: ScriptedBroker, flux: Flux) -> None:
    broker.on("mute.ask", lambda *_: None)
    rpc = flux.rpc("mute.ask")
    flux.flush()
    closer = threading.Thread(target=broker.close)
    closer.start()
    with pytest.raises(ConnectionError) as caught:
        rpc.get(WAIT)
    closer.join()
    assert caught.value.filename == broker.uri


def test_close_is_seen_by_the_broker(broker: ScriptedBroker) -> None:
    Flux(broker.uri).close()
    assert broker.disconnected.wait(WAIT)


def test_ranks_that_are_none_and_endless_waits(flux: Flux) -> None:
    """An error of Flux's kind, whatever a user has made of a rank or a duration."""
    for nodeid in (-1, 1 << 32):
        with pytest.raises(FluxError, match="is not the rank of a broker"):
            flux.rpc("echo.echo", {}, nodeid=nodeid)
    for timeout in (1e300, float("inf")):
        assert flux.rpc("echo.echo", {"a": 1}).get(timeout=timeout) == {"a": 1}
