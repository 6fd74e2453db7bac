"""The time of an instance, for all of its parts that run on one reactor.

There are two kinds of time, and each wait in a broker is in one of them:

*Instance time* is what Flux is about: when a job was submitted, how long it may run, when a node was drained. It is
the time of this module, ``reactor.clock``, with ``reactor.clock.call_later`` and ``call_every``. A test may stop and
move it (:mod:`pytest_flux.reactor.virtual_clock`).

*Real time* is what the machine is about: sockets that do not answer, processes that do not end, the clean-up at the
end. Moving the clock must not make a healthy neighbour look dead, nor must a stopped clock make a broken one look
alive. It is ``reactor.call_later``, measured by ``reactor.monotonic``. So is a delay that only gathers work
(``reactor.batch``), except that instance time never moves before such work is done.

Nobody asks the module ``time``. Deadlines of blocking socket calls, for which the kernel has the clock, are the
exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_flux.reactor.timers import Timer, Timers


class Clock:
    """The time of the system."""

    __slots__ = ("_timers",)

    is_virtual = False
    """Whether time can stop and jump."""

    def __init__(self) -> None:
        self._timers = Timers()

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds since some moment; never goes back. Timers and durations are measured in it."""

    time: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch, as in event logs and job attributes."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back after ``delay`` seconds of instance time, unless the timer is cancelled."""
        return self._timers.add(Timer(self.monotonic() + delay, callback))

    def call_every(self, period: float, callback: Callable[[], object]) -> Timer:
        """Call back every ``period`` seconds (more than 0), until the timer is cancelled.

        For what looks after things, such as the heartbeat. If several periods have passed at once, it calls back
        once.
        """
        return self._timers.add(Timer(self.monotonic() + period, callback, period))

    def wait(self) -> float | None:
        """Seconds of real time until a timer is due, if nobody moves the clock; None for ever."""
        due = self._timers.due()
        return None if due is None else max(0.0, due - self.monotonic())

    def run_due(self, call: Callable[[Callable[[], object]], object]) -> bool:
        """Pass the callbacks that are due to ``call``, in their order. Returns whether there was one."""
        now, timers, has_run = self.monotonic(), self._timers, False
        while (timer := timers.take(now)) is not None:
            has_run = True
            callback = timer.callback
            if timer.period:
                timer.when = now + timer.period
                timers.add(timer)
            else:
                timer.callback = None
            if callback is not None:
                call(callback)
        return has_run
