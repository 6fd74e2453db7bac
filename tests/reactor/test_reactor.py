"""The event loop: what calls back, in which order, and what does not."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from pytest_flux.reactor.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def run_for(reactor: Reactor, seconds: float = 0.01) -> None:
    reactor.call_later(seconds, reactor.stop)
    reactor.run()


def test_timers_fire_in_the_order_of_their_times(reactor: Reactor) -> None:
    fired: list[str] = []
    reactor.call_later(0.02, lambda: fired.append("late"))
    reactor.call_later(0.01, lambda: fired.append("early"))
    reactor.call_later(0.01, lambda: fired.append("early too"))
    reactor.call_later(0.03, reactor.stop)
    reactor.run()
    assert fired == ["early", "early too", "late"]


def test_cancelled_timer_does_not_fire(reactor: Reactor) -> None:
    fired: list[str] = []
    timer = reactor.call_later(0, lambda: fired.append("cancelled"))
    timer.cancel()
    timer.cancel()
    run_for(reactor)
    assert fired == []


@pytest.mark.parametrize("delay", [math.inf, 1e12, 3e6])
def test_timer_may_be_far_away(reactor: Reactor, pipe: tuple[int, int], delay: float) -> None:
    reactor.call_later(delay, lambda: pytest.fail("it is due in ages"))
    reactor.on_readable(pipe[0], reactor.stop)
    os.write(pipe[1], b".")
    reactor.run()


def test_soon_is_after_the_callback_that_runs(reactor: Reactor) -> None:
    order: list[str] = []

    def outer() -> None:
        reactor.call_soon(lambda: order.append("inner"))
        order.append("outer")

    reactor.call_soon(outer)
    run_for(reactor)
    assert order == ["outer", "inner"]


def test_descriptor_calls_back_as_long_as_it_is_ready(reactor: Reactor, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    received: list[bytes] = []

    def read() -> None:
        received.append(os.read(reader, 1))
        if len(received) == 3:
            reactor.on_readable(reader, None)
            reactor.stop()

    reactor.on_readable(reader, read)
    os.write(writer, b"abcd")
    reactor.run()
    assert received == [b"a", b"b", b"c"]


def test_both_directions_of_one_descriptor_are_apart(reactor: Reactor) -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        events: list[str] = []

        def write() -> None:
            events.append("write")
            reactor.on_writable(ours.fileno(), None)
            theirs.send(b".")

        def read() -> None:
            events.append("read")
            reactor.on_readable(ours.fileno(), None)
            reactor.stop()

        reactor.on_writable(ours.fileno(), write)
        reactor.on_readable(ours.fileno(), read)
        reactor.run()
        assert events == ["write", "read"]


def test_descriptor_that_another_callback_closed_does_not_call_back(reactor: Reactor) -> None:
    pipes = [os.pipe(), os.pipe()]
    called: list[int] = []

    def close_both() -> None:
        called.append(1)
        for reader, writer in pipes:
            reactor.on_readable(reader, None)
            os.close(reader)
            os.close(writer)
        reactor.stop()

    # Both are ready in one round, and only one of them is ever served.
    for reader, writer in pipes:
        os.write(writer, b".")
        reactor.on_readable(reader, close_both)
    reactor.run()
    assert called == [1]


def test_watching_nothing_that_was_not_watched_is_harmless(reactor: Reactor, pipe: tuple[int, int]) -> None:
    reactor.on_readable(pipe[0], None)
    reactor.on_writable(pipe[0], None)


def test_signal_calls_back_from_the_loop(reactor: Reactor) -> None:
    received: list[int] = []

    def take(signum: int) -> None:
        received.append(signum)
        reactor.stop()

    reactor.on_signal(signal.SIGUSR1, take)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert received == []
    reactor.run()
    assert received == [signal.SIGUSR1]


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    reactor = Reactor()
    reactor.on_signal(signal.SIGUSR1, lambda signum: None)
    assert signal.getsignal(signal.SIGUSR1) != before
    reactor.close()
    assert signal.getsignal(signal.SIGUSR1) == before


def start(code: str) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, "-c", code], dict(os.environ))


def test_ends_of_children_are_told_with_their_status(reactor: Reactor) -> None:
    ended: dict[int, int] = {}

    def end(pid: int, status: int) -> None:
        ended[pid] = os.waitstatus_to_exitcode(status)
        if len(ended) == 3:
            reactor.stop()

    codes = {}
    for code, expected in (("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)):
        pid = start(code)
        codes[pid] = expected
        reactor.on_child(pid, lambda status, pid=pid: end(pid, status))  # type: ignore[misc]
    reactor.run()
    assert ended == codes


def test_child_that_has_ended_before_the_loop_runs_is_noticed(reactor: Reactor) -> None:
    pid = start("pass")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    reactor.on_child(pid, lambda status: reactor.stop())
    reactor.run()


def test_stop_of_a_child_is_told_and_its_end_after_it(reactor: Reactor) -> None:
    told: list[str] = []
    pid = start("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")

    def stopped(status: int) -> None:
        told.append(f"stopped by {os.WSTOPSIG(status)}")
        os.kill(pid, signal.SIGCONT)

    def ended(status: int) -> None:
        told.append("ended")
        reactor.stop()

    reactor.on_child(pid, ended, stopped)
    reactor.run()
    assert told == [f"stopped by {signal.SIGSTOP:d}", "ended"]


def test_children_that_nobody_asked_for_are_reaped(reactor: Reactor) -> None:
    stranger = start("pass")
    os.waitid(os.P_PID, stranger, os.WEXITED | os.WNOWAIT)
    pid = start("pass")
    reactor.on_child(pid, lambda status: reactor.stop())
    reactor.run()
    with pytest.raises(ChildProcessError):
        os.waitpid(stranger, os.WNOHANG)


def test_error_in_a_callback_ends_the_loop(reactor: Reactor) -> None:
    def fail() -> None:
        raise KeyError("mine")

    reactor.call_soon(fail)
    with pytest.raises(KeyError, match="mine"):
        reactor.run()
    run_for(reactor)
