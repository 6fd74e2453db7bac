"""One thread that waits for descriptors, timers, signals and children, and calls back."""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from itertools import count

Callback = Callable[[], None]
StatusCallback = Callable[[int], None]

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE
# What epoll takes is bounded. A timer that is due later, or never (infinity), has us look in vain once an hour.
_MAX_TIMEOUT = 3600.0


class Timer:
    """A callback that is due at a moment of the monotonic clock, unless cancelled before."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Forget the callback. Harmless when it has run."""
        self.callback = None


class Reactor:
    """Callbacks in the order of their causes; an exception in one ends ``run`` and reaches its caller."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
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
            for key, events in self._selector.select(self._timeout()):
                callbacks = key.data
                for index, mask in ((0, _READ), (1, _WRITE)):
                    callback = callbacks[index]
                    if events & mask and callback is not None:
                        callback()
            self._run_timers()
            self._run_soon()

    def stop(self) -> None:
        """Let ``run`` return at the end of this round."""
        self._running = False

    def close(self) -> None:
        """Give back descriptors and signal handlers. Watched descriptors stay open: they are their owners'."""
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)  # type: ignore[arg-type]
            for fd in self._wakeup:
                os.close(fd)
            self._wakeup = None
        self._selector.close()

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
        return min(max(0.0, self._timers[0][0] - time.monotonic()), _MAX_TIMEOUT)

    def _run_timers(self) -> None:
        now = time.monotonic()
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
        timer = Timer(time.monotonic() + delay, callback)
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
            self._selector.register(fd, after, callbacks)
        elif not after:
            self._selector.unregister(fd)
            del self._callbacks[fd]
        elif after != before:
            self._selector.modify(fd, after, callbacks)

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
