"""One thread that waits for descriptors, timers, signals and children, and calls back."""

from __future__ import annotations

import heapq
import math
import os
import select
import signal
from collections import deque
from collections.abc import Callable
from itertools import count

from pytest_flux.reactor.clock import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Callback = Callable[[], None]
StatusCallback = Callable[[int], None]

# The module selectors does the same, but costs each broker 0.1 MiB.
_HAS_EPOLL = hasattr(select, "epoll")
# Both have the same numbers. They also report errors and hangups, which callbacks notice when they read or write.
_READ = select.POLLIN
_WRITE = select.POLLOUT
# The timeout of epoll is bounded. If a timer is due later, or never (infinity), the loop wakes once an hour.
_MAX_TIMEOUT = 3600.0


class Timer:
    """A callback that is due at a moment of the monotonic clock, unless it is cancelled."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Forget the callback. Harmless when it has run."""
        self.callback = None


class Reactor:
    """Callbacks in the order of their causes; an exception in one ends ``run`` and reaches its caller.

    ``clock`` is the time of everything that runs here.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = Clock() if clock is None else clock
        self._poll: Any = select.epoll() if _HAS_EPOLL else select.poll()
        self._callbacks: dict[int, list[Callback | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._soon: deque[Callback] = deque()
        self._signals: dict[int, Callable[[int], None]] = {}
        self._children: dict[int, tuple[StatusCallback, StatusCallback | None]] = {}
        self._previous: dict[int, object] = {}
        self._wakeup: tuple[int, int] | None = None
        self._running = False

    def run(self) -> None:
        """Call back until ``stop``."""
        self._running = True
        while self._running:
            for callbacks, events in self._wait(self._timeout()):
                for index, other in ((0, _WRITE), (1, _READ)):
                    callback = callbacks[index]
                    if events & ~other and callback is not None:
                        callback()
            self._run_timers()
            self._run_soon()

    def _wait(self, timeout: float | None) -> list[tuple[list[Callback | None], int]]:
        """The callbacks for ready descriptors. Looked up at once: a callback may close one and open another."""
        if timeout is not None:
            # Rounded up: a loop that wakes too early wakes many times. epoll takes seconds, poll milliseconds.
            timeout = math.ceil(timeout * 1000)
            if _HAS_EPOLL:
                timeout /= 1000
        ready = self._poll.poll(timeout)
        return [(self._callbacks[fd], events) for fd, events in ready if fd in self._callbacks]

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
            self._soon.popleft()()

    def _timeout(self) -> float | None:
        if self._soon:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return min(max(0.0, self._timers[0][0] - self.clock.monotonic()), _MAX_TIMEOUT)

    def _run_timers(self) -> None:
        now = self.clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def call_soon(self, callback: Callback) -> None:
        """Call back in the next round, after the callback that is running."""
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Call back after ``delay`` seconds, unless the timer is cancelled."""
        timer = Timer(self.clock.monotonic() + delay, callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

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
                callback(signum)

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
                    stopped(status)
                continue
            self._children.pop(pid, None)
            if ended is not None:
                ended(status)
