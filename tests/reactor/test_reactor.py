"""Descriptors, timers and signals call back in the order of their causes, with epoll and with poll."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from pytest_flux.reactor import reactor as module
from pytest_flux.reactor.reactor import Reactor


@pytest.fixture(params=[True, False], ids=["epoll", "poll"])
def reactor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reactor]:
    if request.param and not module._HAS_EPOLL:
        pytest.skip("there is no epoll")
    monkeypatch.setattr(module, "_HAS_EPOLL", request.param)
    made = Reactor()
    deadline = made.call_later(10, made.stop)
    yield made
    assert deadline.callback is not None
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_readable_and_writable(reactor: Reactor, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    seen = []

    def writable() -> None:
        seen.append("writable")
        reactor.on_writable(ours.fileno(), None)
        theirs.send(b"word")

    def readable() -> None:
        seen.append(ours.recv(100).decode())
        reactor.stop()

    reactor.on_readable(ours.fileno(), readable)
    reactor.on_writable(ours.fileno(), writable)
    reactor.run()
    assert seen == ["writable", "word"]


def test_hangup_is_there_for_both_sides(reactor: Reactor, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    seen = []
    reactor.on_readable(ours.fileno(), lambda: seen.append("readable"))
    reactor.on_writable(ours.fileno(), lambda: seen.append("writable"))
    reactor.call_later(0, reactor.stop)
    reactor.run()
    assert seen == ["readable", "writable"]


def test_what_a_callback_ends_is_not_called_back(reactor: Reactor) -> None:
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def readable(fd: int, other: int) -> None:
        seen.append(fd)
        reactor.on_readable(other, None)
        # A new pipe takes the number of the old one, with nothing to read.
        os.close(other)
        os.dup2(quiet[0], other)
        reactor.on_readable(other, lambda: seen.append(-1))
        reactor.on_readable(fd, None)
        reactor.call_soon(reactor.stop)

    quiet = os.pipe()
    (first, first_end), (second, second_end) = pipes
    reactor.on_readable(first, lambda: readable(first, second))
    reactor.on_readable(second, lambda: readable(second, first))
    os.write(first_end, b"x")
    os.write(second_end, b"x")
    reactor.run()
    assert len(seen) == 1
    for fd in (first, second, first_end, second_end, *quiet):
        os.close(fd)


def test_descriptor_may_be_closed_before_it_is_given_up(reactor: Reactor) -> None:
    reading, writing = os.pipe()
    reactor.on_readable(reading, reactor.stop)
    os.close(reading)
    reactor.on_readable(reading, None)
    os.close(writing)
    reactor.call_later(0, reactor.stop)
    reactor.run()


def test_timers_come_in_order_and_not_early(reactor: Reactor) -> None:
    start = time.monotonic()
    seen: list[tuple[str, float]] = []

    def later() -> None:
        seen.append(("later", time.monotonic() - start))
        reactor.stop()

    reactor.call_later(0.03, later)
    reactor.call_later(0.0105, lambda: seen.append(("sooner", time.monotonic() - start)))
    reactor.call_later(0.02, lambda: seen.append(("never", 0.0))).cancel()
    reactor.run()
    assert [name for name, _ in seen] == ["sooner", "later"]
    assert seen[0][1] >= 0.0105
    assert seen[1][1] >= 0.03


def test_signal_wakes_the_loop(reactor: Reactor) -> None:
    seen = []

    def received(signum: int) -> None:
        seen.append(signum)
        reactor.stop()

    reactor.on_signal(signal.SIGUSR1, received)
    reactor.call_later(0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    reactor.run()
    assert seen == [signal.SIGUSR1]


def test_child_is_reaped(reactor: Reactor) -> None:
    seen = []

    def ended(status: int) -> None:
        seen.append(os.waitstatus_to_exitcode(status))
        reactor.stop()

    reactor.on_child(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {}), ended)
    reactor.run()
    assert seen == [7]
