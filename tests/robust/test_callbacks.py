"""A callback that raises ends what it serves, and nothing else (see pytest_flux.reactor.reactor)."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_flux.broker import defaults
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot.boot import bootstrap
from pytest_flux.broker.broker import Broker
from pytest_flux.broker.kvs.namespace import Waiter
from pytest_flux.broker.log import BrokerLog
from pytest_flux.broker.service import Answer, LazyService, Request, Service, method
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import REQUEST, Message
from pytest_flux.protocol.severity import LOG_INFO
from pytest_flux.protocol.stdlog import decode_entry
from pytest_flux.reactor.pipe import PipeReader, PipeWriter
from pytest_flux.reactor.process import Process
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import Stream
from pytest_flux.reactor.usock import UsockServer

TIMEOUT = 20.0


class Fault(Exception):
    """What the callbacks of this test raise."""


class Rig:
    """A broker of one rank in this process, in state run."""

    def __init__(self, directory: Path) -> None:
        attributes = Attributes()
        settings = {
            "rank": "0",
            "size": "1",
            "version": defaults.VERSION,
            "hostname": "vm",
            "rundir": str(directory),
            "statedir": str(directory),
            "statedir-cleanup": "0",
            "local-uri": f"local://{directory}/local-0",
            "jobid-path": "/",
            "log-critical-level": "-1",
            "log-stderr-level": "-1",
            **defaults.ATTRIBUTES,
        }
        for name, value in settings.items():
            attributes.set(name, value)
        self.directory = directory
        self.reactor = Reactor()
        log = BrokerLog(attributes, clock=self.reactor.clock)
        log.initialize(0, lambda _: None)
        self.boot = bootstrap({}, {}, "vm", method="single")
        self.broker = Broker(self.reactor, attributes, {}, log, self.boot)
        self.count = 0
        self.clean_up: list[Callable[[], object]] = []

    def raises(self, *_: object) -> NoReturn:
        """The callback of every test."""
        self.count += 1
        raise Fault(f"number {self.count}")

    def run_until(self, condition: Callable[[], bool]) -> None:
        late = self.reactor.call_later(TIMEOUT, lambda: self.reactor.fail(TimeoutError("nothing has come of it")))

        def look() -> None:
            if condition():
                self.reactor.stop()
            else:
                self.reactor.call_soon(look)

        if not condition():
            look()
            self.reactor.run()
        late.cancel()

    def answer(self, topic: str, payload: dict[str, Any] | None = None) -> Message:
        got: list[Message] = []
        self.broker.router.rpc(topic, payload, got.append)
        self.run_until(lambda: bool(got))
        return got[0]

    def check(self) -> None:
        """The fault has happened, and the broker serves as before."""
        self.run_until(lambda: self.count > 0)
        for topic in ("broker.ping", "kvs.ping"):
            assert self.answer(topic, {"a": 1}).json()["a"] == 1
        assert self.broker.state_machine.state == "run"

    def texts(self) -> list[str]:
        return [decode_entry(line).text for line in self.broker.log.lines()]

    def close(self) -> None:
        for action in self.clean_up:
            action()
        self.broker.close()
        self.reactor.close()
        self.boot.close()


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("r"))
    rig.broker.start()
    rig.run_until(lambda: rig.broker.state_machine.state == "run")
    yield rig
    rig.close()


def pipe(rig: Rig) -> tuple[int, int]:
    read, write = os.pipe()

    def close() -> None:
        for fd in (read, write):
            try:
                os.close(fd)
            except OSError:
                continue

    rig.clean_up.append(close)
    return read, write


def readable(rig: Rig) -> None:
    read, write = pipe(rig)
    rig.reactor.on_readable(read, rig.raises)
    os.write(write, b"x")


def writable(rig: Rig) -> None:
    rig.reactor.on_writable(pipe(rig)[1], rig.raises)


def soon(rig: Rig) -> None:
    rig.reactor.call_soon(rig.raises)


def later(rig: Rig) -> None:
    rig.reactor.call_later(0.0, rig.raises)


def a_signal(rig: Rig) -> None:
    rig.reactor.on_signal(signal.SIGWINCH, rig.raises)
    os.kill(os.getpid(), signal.SIGWINCH)


def child_ended(rig: Rig) -> None:
    rig.clean_up.append(Process(rig.reactor, ["true"], ended=rig.raises).destroy)


def child_stopped(rig: Rig) -> None:
    process = Process(rig.reactor, ["sleep", "1000"], ended=lambda _: None, stopped=rig.raises)
    rig.clean_up += [process.destroy, lambda: os.waitpid(process.pid, 0)]
    process.kill(signal.SIGSTOP)


def output(rig: Rig) -> None:
    process = Process(rig.reactor, ["echo", "x"], ended=lambda _: None, on_stdout=rig.raises)
    rig.clean_up.append(process.destroy)


def pipe_read(rig: Rig) -> None:
    read, write = os.pipe()
    rig.clean_up.append(PipeReader(rig.reactor, read, rig.raises).close)
    rig.clean_up.append(lambda: os.close(write))
    os.write(write, b"x")


def pipe_written(rig: Rig) -> None:
    read, write = os.pipe()
    writer = PipeWriter(rig.reactor, write, rig.raises)
    rig.clean_up.append(writer.close)
    rig.clean_up.append(lambda: os.close(read))
    writer.write(b"x")


def stream_data(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    rig.clean_up += [Stream(rig.reactor, ours, rig.raises, lambda: None).close, theirs.close]
    theirs.send(b"x")


def stream_end(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    rig.clean_up.append(Stream(rig.reactor, ours, lambda _: None, rig.raises).close)
    theirs.close()


def answered(rig: Rig) -> None:
    rig.broker.router.rpc("broker.ping", {"a": 1}, rig.raises)


def subscribed(rig: Rig) -> None:
    rig.broker.router.subscribe("fault", rig.raises)
    rig.broker.router.publish("fault.it")


def any_event(rig: Rig) -> None:
    rig.broker.router.on_event.insert(0, rig.raises)
    rig.broker.router.publish("fault.it")


def receiver(rig: Rig) -> None:
    rig.broker.router.add_service("fault", rig.raises)
    message = rig.answer("fault.it")
    assert (message.errnum, message.text()) == (errno.EIO, "internal error, see the broker's log")


def handler(rig: Rig) -> None:
    class FaultService(Service):
        name = "fault"

        @method("it")
        def it(self, request: Request) -> Answer:
            rig.raises()

    rig.broker.router.add_service("fault", FaultService(rig.broker.router, rig.broker.log).receive)
    message = rig.answer("fault.it")
    assert (message.errnum, message.text()) == (errno.EIO, "internal error, see the broker's log")


def maker(rig: Rig) -> None:
    service = LazyService("fault", rig.broker.router, rig.raises)
    rig.broker.router.add_service("fault", service.receive)
    assert rig.answer("fault.it").errnum == errno.EIO


def commit(rig: Rig) -> None:
    kvs, done = rig.broker.parts.kvs, list[object]()
    kvs.commit([], done=rig.raises)
    kvs.commit([], done=done.append)
    rig.run_until(lambda: done == [None])


def version(rig: Rig) -> None:
    kvs, done = rig.broker.parts.kvs, list[object]()
    primary = kvs.namespace("primary")
    for callback in (rig.raises, done.append):
        primary.waiters[Waiter(primary.sequence + 1, callback)] = None
    kvs.put("a", "b")
    rig.run_until(lambda: done == [None])


def watcher(rig: Rig) -> None:
    kvs, seen, ends = rig.broker.parts.kvs, list[bytes](), list[int]()
    kvs.watch("w", rig.raises, lambda error: ends.append(error.errnum if error else 0))
    kvs.watch("w", seen.append, lambda _: None)
    kvs.put("w", "b")
    rig.run_until(lambda: seen == [b"b"])
    assert ends == [errno.EIO]


KINDS = [
    readable,
    writable,
    soon,
    later,
    a_signal,
    child_ended,
    child_stopped,
    output,
    pipe_read,
    pipe_written,
    stream_data,
    stream_end,
    answered,
    subscribed,
    any_event,
    receiver,
    handler,
    maker,
    commit,
    version,
    watcher,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_one_callback_does_not_end_a_broker(rig: Rig, kind: Callable[[Rig], None]) -> None:
    kind(rig)
    rig.check()
    assert any(text.endswith("Fault: number 1") for text in rig.texts())


def test_every_one_in_turn(rig: Rig) -> None:
    for kind in KINDS:
        if kind.__name__ not in ("receiver", "handler", "maker"):
            rig.count = 0
            kind(rig)
            rig.check()


def test_a_service_that_cannot_be_made_is_tried_again(rig: Rig) -> None:
    problems: list[Exception] = [FluxError(errno.ENOSPC, "no room"), OSError(errno.EIO, "bad disk"), Fault("bug")]

    class Late(Service):
        name = "late"

        @method("it")
        def it(self, request: Request) -> Answer:
            return {"made": True}

    def make() -> Service:
        if problems:
            raise problems.pop(0)
        return Late(rig.broker.router, rig.broker.log)

    rig.broker.router.add_service("late", LazyService("late", rig.broker.router, make).receive)
    answers = [rig.answer("late.it") for _ in range(4)]
    assert [message.errnum for message in answers] == [errno.ENOSPC, errno.EIO, errno.EIO, 0]
    assert answers[0].text() == "no room"
    assert answers[3].json() == {"made": True}


def test_a_follower_of_the_log(rig: Rig) -> None:
    lines: list[bytes] = []
    rig.broker.log.add_follower(rig.raises)
    rig.broker.log.add_follower(lines.append)
    rig.broker.log.write(LOG_INFO, "x")
    assert decode_entry(lines[-1]).text == "x"
    rig.check()


def test_a_bad_client_is_cut_off_and_the_others_stay(rig: Rig) -> None:
    """A server whose callbacks fail loses the client that they serve, and goes on to accept others."""
    gone: list[object] = []
    server = UsockServer(rig.reactor, f"{rig.directory}/server", rig.raises, gone.append)
    rig.clean_up.append(server.close)
    for number in (1, 2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(server.path)
            client.send(encode_frame(Message(REQUEST, "a.b", routes=[])))
            rig.run_until(lambda number=number: len(gone) == number)  # type: ignore[misc]
            assert client.recv(100) == b"\0"
            assert client.recv(100) == b""
    rig.check()


def test_a_client_that_cannot_be_accepted(rig: Rig) -> None:
    server = UsockServer(rig.reactor, f"{rig.directory}/server", rig.raises, lambda _: None, on_connect=rig.raises)
    rig.clean_up.append(server.close)
    for number in (1, 2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(server.path)
            rig.run_until(lambda number=number: rig.count == number)  # type: ignore[misc]
    rig.check()


def test_a_fault_in_the_life_of_the_broker_ends_it(rig: Rig) -> None:
    kill: Any = rig.broker.state_machine.kill
    rig.reactor.call_soon(kill)
    with pytest.raises(TypeError, match="signum"):
        rig.reactor.run()


def test_a_slow_callback_is_reported(rig: Rig) -> None:
    reports: list[tuple[object, float]] = []
    ticks = iter((0.0, 0.5))

    class Watch:
        def slowly(self) -> None:
            rig.reactor.stop()

    reactor = Reactor()
    reactor.monotonic = lambda: next(ticks, 0.5)
    reactor.on_slow = lambda callback, seconds: reports.append((callback, seconds))
    slow = Watch().slowly
    assert reactor.call(slow)
    assert reports == [(slow, 0.5)]
    reactor.close()


def test_the_local_socket_serves_after_faults(rig: Rig) -> None:
    for kind in (soon, any_event, stream_data):
        kind(rig)
    got: list[Message] = []
    decoder = FrameDecoder()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(f"{rig.directory}/local-0")

    def read(data: bytes) -> None:
        got.extend(decoder.feed(data.removeprefix(b"\0")))

    stream = Stream(rig.reactor, client, read, lambda: None)
    rig.clean_up.append(stream.close)
    stream.write(encode_frame(Message(REQUEST, "broker.ping", b'{"a":1}\0', aux1=0xFFFFFFFF, aux2=3, routes=[])))
    rig.run_until(lambda: bool(got))
    assert got[0].json()["a"] == 1
