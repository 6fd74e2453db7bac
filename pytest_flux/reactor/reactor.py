"""One thread that waits for descriptors, timers, signals and children, and calls back.

Whose fault is an exception
---------------------------

A callback that raises must not end what it does not serve: a broker has hundreds of clients and jobs on one reactor.
Nor must it be swallowed: whatever the callback served would hang. So each exception ends one thing, its owner:

* Without ``on_error`` the exception leaves ``run``. That is right for a program that does one thing, as a command.
* With it, the exception is reported there and the reactor goes on. If the callback is a method of an object that has
  a method ``broken``, that is called to end what the object serves: a stream closes, a pipe reports its end. A
  descriptor without such an owner is unregistered; timers and ended children are gone anyway. ``on_error`` may call
  ``fail``, which ends ``run`` with the exception after all: a broker does so for its own life (see Broker.report).
* Code that calls back many others in a loop (events to subscribers, commits to watchers) uses ``call``, so that one
  of them that fails does not cost the others their turn.

Which time a timer is in
------------------------

``call_later`` is real time: for sockets, processes, the clean-up. Timers of the instance are those of ``clock`` (see
pytest_flux.reactor.clock). ``batch`` is for delays that only gather work: if the clock is virtual, a test must be
able to rely on what follows from one moment before time moves on, so the loop does such work as soon as there is
nothing else to do. When that is done too, it calls ``on_idle``: everything that this process had to do at this moment
is done.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable

from pytest_flux.reactor.clock import Clock
from pytest_flux.reactor.timers import Timer, Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Callback = Callable[[], None]
StatusCallback = Callable[[int], None]
ErrorCallback = Callable[[Exception, object], None]

# The module selectors does the same, but costs each broker 0.1 MiB.
_HAS_EPOLL = hasattr(select, "epoll")
# Both have the same numbers. They also report errors and hangups, which callbacks notice when they read or write.
_READ = select.POLLIN
_WRITE = select.POLLOUT
# The timeout of epoll is bounded. If a timer is due later, or never (infinity), the loop wakes once an hour.
_MAX_TIMEOUT = 3600.0


def _broken(callback: object) -> Callback | None:
    """What ends that which a failed callback served, if it says so."""
    broken: Callback | None = getattr(getattr(callback, "__self__", None), "broken", None)
    return broken


class Reactor:
    """Callbacks in the order of their causes.

    ``clock`` is the time of the instance whose parts run here. ``on_error`` gets an exception and the callback that
    raised it. ``on_slow`` gets a callback that took more than ``slow`` seconds, and how long it took. ``on_idle`` is
    called if the clock is virtual, once whenever the loop has run out of things to do.
    """

    monotonic = staticmethod(time.monotonic)
    """Seconds of real time."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = Clock() if clock is None else clock
        self.on_idle: Callback | None = None
        self.on_error: ErrorCallback | None = None
        self.on_slow: Callable[[object, float], None] | None = None
        self.slow = 0.1
        self._poll: Any = select.epoll() if _HAS_EPOLL else select.poll()
        self._callbacks: dict[int, list[Callback | None]] = {}
        self._timers = Timers()
        self._soon: deque[Callback] = deque()
        self._batched: deque[Timer] = deque()
        self._put_off: list[Timer] = []
        self._is_idle = True
        self._signals: dict[int, Callable[[int], None]] = {}
        self._children: dict[int, tuple[StatusCallback, StatusCallback | None]] = {}
        self._previous: dict[int, object] = {}
        self._wakeup: tuple[int, int] | None = None
        self._running = False
        self._failure: Exception | None = None

    def run(self) -> None:
        """Call back until ``stop``."""
        self._running = True
        while self._running:
            ready = self._wait(self._timeout())
            for fd, callbacks, events in ready:
                for index, other in ((0, _WRITE), (1, _READ)):
                    callback = callbacks[index]
                    if events & ~other and callback is not None and not self.call(callback):
                        self._drop(fd, callbacks, callback)
            has_run = self._run_timers()
            if self._soon:
                has_run = True
                self._run_soon()
            if self.clock.is_virtual:
                self._note_idle(is_idle=not ready and not has_run)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def fail(self, error: Exception) -> None:
        """Let ``run`` raise ``error`` at the end of this round."""
        self._failure = error
        self._running = False

    def call(self, callback: Callable[..., object], *arguments: object) -> bool:
        """Call back now. Returns whether it succeeded; without ``on_error`` an exception reaches the caller."""
        if self.on_slow is not None:
            return self._call_watched(callback, arguments)
        if self.on_error is None:
            callback(*arguments)
            return True
        try:
            callback(*arguments)
        except Exception as error:  # noqa: BLE001 - the owner of the callback decides
            self.on_error(error, callback)
            broken = _broken(callback)
            if broken is not None and callback != broken:
                self.call(broken)
            return False
        return True

    def _drop(self, fd: int, callbacks: list[Callback | None], callback: Callback) -> None:
        """Unregister a descriptor whose callback has failed, unless its owner sees to it."""
        if _broken(callback) is None and self._callbacks.get(fd) is callbacks:
            self.on_readable(fd, None)
            self.on_writable(fd, None)

    def _call_watched(self, callback: Callable[..., object], arguments: tuple[object, ...]) -> bool:
        """As ``call``. A callback within another counts for the outer one only."""
        report, self.on_slow = self.on_slow, None
        assert report is not None
        began = self.monotonic()
        try:
            return self.call(callback, *arguments)
        finally:
            self.on_slow = report
            spent = self.monotonic() - began
            if spent > self.slow:
                report(callback, spent)

    def _wait(self, timeout: float | None) -> list[tuple[int, list[Callback | None], int]]:
        """The callbacks for descriptors that are ready: found now, because a number may be reused meanwhile."""
        if timeout is not None:
            # Rounded up: a loop that wakes too early wakes many times. epoll takes seconds, poll milliseconds.
            timeout = math.ceil(timeout * 1000)
            if _HAS_EPOLL:
                timeout /= 1000
        ready = self._poll.poll(timeout)
        return [(fd, self._callbacks[fd], events) for fd, events in ready if fd in self._callbacks]

    def stop(self) -> None:
        """Let ``run`` return at the end of this round."""
        self._running = False

    def close(self) -> None:
        """Give back descriptors and signal handlers. Watched descriptors belong to others and stay open."""
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)  # type: ignore[arg-type]
            for fd in self._wakeup:
                os.close(fd)
            self._wakeup = None
        if _HAS_EPOLL:
            self._poll.close()

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):
            self.call(self._soon.popleft())

    def _timeout(self) -> float | None:
        if self._soon or not self._is_idle:
            return 0
        due, wait = self._timers.due(), self.clock.wait()
        if due is not None:
            left = max(0.0, due - self.monotonic())
            wait = left if wait is None else min(wait, left)
        return None if wait is None else min(wait, _MAX_TIMEOUT)

    def _run_timers(self) -> bool:
        has_run = self.clock.run_due(self.call)
        now = self.monotonic()
        while (timer := self._timers.take(now)) is not None:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                has_run = True
                self.call(callback)
        return has_run

    def _note_idle(self, *, is_idle: bool) -> None:
        """Do what was put off if there is nothing else to do, and report when there is nothing at all."""
        if not is_idle:
            self._is_idle = False
        elif self._batched:
            callback = self._batched.popleft().callback
            if callback is not None:
                self.call(callback)
        elif not self._is_idle:
            self._is_idle = True
            if self.on_idle is not None:
                self.call(self.on_idle)

    def stir(self) -> None:
        """Call ``on_idle`` again, even if nothing happens."""
        self._is_idle = not self.clock.is_virtual

    def call_soon(self, callback: Callback) -> None:
        """Call back in the next round, after the callback that is running."""
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Call back after ``delay`` seconds of real time, unless the timer is cancelled."""
        return self._timers.add(Timer(self.monotonic() + delay, callback))

    def batch(self, delay: float, callback: Callback) -> Timer:
        """Call back after ``delay`` seconds, for which work is gathered.

        If time is virtual, call back once there is nothing else to do. The timer can be cancelled.
        """
        if not self.clock.is_virtual:
            return self.call_later(delay, callback)
        timer = Timer(self.monotonic() + delay, callback)
        self._batched.append(timer)
        self._is_idle = False
        return timer

    def put_off(self, delay: float, callback: Callback) -> None:
        """Call back after ``delay`` seconds of real time, or earlier by ``do_put_off``.

        For work that nobody waits for, such as writing what readers ask for anyway. Virtual time may move before.
        """
        timer = self.call_later(delay, callback)
        if self.clock.is_virtual:
            self._put_off.append(timer)

    def do_put_off(self) -> bool:
        """Do now what was put off while time moves. Returns whether there was something."""
        timers, self._put_off = self._put_off, []
        callbacks = [timer.callback for timer in timers if timer.callback is not None]
        for timer in timers:
            timer.cancel()
        for callback in callbacks:
            self.call(callback)
        if callbacks:
            self.stir()
        return bool(callbacks)

    def on_readable(self, fd: int, callback: Callback | None) -> None:
        """Call back whenever ``fd`` has something to read, or is at its end; None ends that."""
        self._watch(fd, 0, callback)

    def on_writable(self, fd: int, callback: Callback | None) -> None:
        """Call back whenever ``fd`` takes something; None ends that."""
        self._watch(fd, 1, callback)

    def _watch(self, fd: int, index: int, callback: Callback | None) -> None:
        callbacks = self._callbacks.get(fd)
        if callbacks is None:
            if callback is None:
                return
            callbacks = self._callbacks[fd] = [None, None]
        before = self._mask(callbacks)
        callbacks[index] = callback
        after = self._mask(callbacks)
        if not before:
            self._poll.register(fd, after)
        elif not after:
            del self._callbacks[fd]
            try:
                self._poll.unregister(fd)
            except OSError:
                # It has been closed, by which epoll has forgotten it.
                return
        elif after != before:
            self._poll.modify(fd, after)

    @staticmethod
    def _mask(callbacks: list[Callback | None]) -> int:
        return (_READ if callbacks[0] else 0) | (_WRITE if callbacks[1] else 0)

    def on_signal(self, signum: int, callback: Callable[[int], None]) -> None:
        """Call back, from the loop, when the process receives ``signum``. Main thread only."""
        if self._wakeup is None:
            self._wakeup = os.pipe()
            for fd in self._wakeup:
                os.set_blocking(fd, False)
            self.on_readable(self._wakeup[0], self._read_signals)
            signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        if signum not in self._previous:
            # A handler that does nothing, not SIG_IGN: exec would pass "ignored" on to children.
            self._previous[signum] = signal.signal(signum, lambda *_: None)
        self._signals[signum] = callback

    def _read_signals(self) -> None:
        assert self._wakeup is not None
        try:
            received = os.read(self._wakeup[0], 4096)
        except BlockingIOError:
            return
        for signum in dict.fromkeys(received):
            callback = self._signals.get(signum)
            if callback is not None:
                self.call(callback, signum)

    def on_child(self, pid: int, ended: StatusCallback, stopped: StatusCallback | None = None) -> None:
        """Call ``ended`` with the wait status of a child of ours when it ends, ``stopped`` when it stops.

        Must be called in the same callback as the fork. Children nobody asked for (orphans that fell to us) are
        reaped silently.
        """
        self._children[pid] = (ended, stopped)
        if signal.SIGCHLD not in self._signals:
            self.on_signal(signal.SIGCHLD, lambda _: self.reap())
            self.call_soon(self.reap)

    def reap(self) -> None:
        """Collect every child that has changed state."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended, stopped = self._children.get(pid, (None, None))
            if os.WIFSTOPPED(status):
                if stopped is not None:
                    self.call(stopped, status)
                continue
            self._children.pop(pid, None)
            if ended is not None:
                self.call(ended, status)
