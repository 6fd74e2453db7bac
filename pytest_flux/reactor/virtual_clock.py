"""A clock that stands still until it is moved.

Time is a whole number of microseconds, because ``advance(a); advance(b)`` must end at the same moment as
``advance(a + b)``, to the last digit in an event log. Sums of floats would not.

A move passes through all moments at which a timer is due: each callback sees the time that it was due at. Timers with
a period are different. A heartbeat every two seconds is 1.3 million beats in a month that a test skips, and nobody
hears them. So when time passes over several of their periods at once, they are due at the last of these moments only,
as timerfd(2) counts expirations that nobody has read. ``due`` does not count them either: nobody moves time in order
to reach a heartbeat.

The clock can also run at the pace of the system's (``run``), from the moment at which it stands. Then ``base`` says
which moment of real time that was. Brokers of one host share the system's monotonic clock, so brokers with the same
``state`` agree to the microsecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_flux.reactor.clock import Clock
from pytest_flux.reactor.timers import Timer, Timers

MICROSECONDS = 1_000_000


def _real_now() -> int:
    return time.monotonic_ns() // 1000


class VirtualClock(Clock):
    """``start`` is its first moment: given in seconds since the epoch, kept in microseconds. Others count from it."""

    __slots__ = ("_base", "_goal", "_now", "_periodic", "start")

    is_virtual = True

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = round(start * MICROSECONDS)
        self._now = 0
        self._goal = 0
        self._base: int | None = None
        self._periodic = Timers()

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._moment() / MICROSECONDS

    def time(self) -> float:
        """Seconds since the epoch."""
        return (self.start + self._moment()) / MICROSECONDS

    def _moment(self) -> int:
        if self._base is not None:
            # Timers that are due see their own time; all others see how time passes.
            return self._now if self._now < self._goal else self._now + _real_now() - self._base
        return self._now

    # -- moving it

    @property
    def is_running(self) -> bool:
        """Whether time passes at its own pace."""
        return self._base is not None

    @property
    def state(self) -> tuple[int, int | None]:
        """Microseconds since the start, and the base if it is running: for :meth:`follow`."""
        return self._now if self._base is not None else self._goal, self._base

    def follow(self, moment: int, base: int | None) -> None:
        """Take over the state of another broker's clock.

        If that has stopped and this one still runs, time goes back by as long as the message has taken.
        """
        if base is not None or self._base is not None:
            self._now = self._goal = moment
            self._base = base
        else:
            self.move(moment)

    def move(self, moment: int) -> None:
        """Move a clock that stands to a moment, in microseconds since the start; the timers are due in the loop."""
        self._goal = max(self._goal, moment)

    def run(self) -> None:
        """Let time pass at the pace of the system."""
        if self._base is None:
            self._now = self._goal
            self._base = _real_now()

    def stop(self) -> None:
        """Let time stand still."""
        if self._base is not None:
            self._now = self._goal = self._moment()
            self._base = None

    # -- timers

    def due(self) -> int | None:
        """When the first timer without a period is due, in microseconds since the start; None if there is none."""
        due = self._timers.due()
        return None if due is None else max(round(due * MICROSECONDS), self._goal)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """See Clock."""
        return self._timers.add(Timer(self._due_after(delay), callback))

    def call_every(self, period: float, callback: Callable[[], object]) -> Timer:
        """See Clock."""
        return self._periodic.add(Timer(self._due_after(period), callback, period))

    def _due_after(self, delay: float) -> float:
        # As in monotonic, this is the float nearest to a number of microseconds. So equal moments are equal.
        return round(self.monotonic() + delay, 6)

    def wait(self) -> float | None:
        """See Clock."""
        if self._now != self._goal:
            return 0.0
        dues = [due for due in (self._timers.due(), self._periodic.due()) if due is not None]
        if not dues:
            return None
        left = min(dues) - self.monotonic()
        return max(0.0, left) if self._base is not None or left <= 0 else None

    def run_due(self, call: Callable[[Callable[[], object]], object]) -> bool:
        """See Clock."""
        self._reach()
        goal, has_run = self._goal / MICROSECONDS, False
        while (timer := self._take(goal)) is not None:
            self._now = max(self._now, round(timer.when * MICROSECONDS))
            callback = timer.callback
            if timer.period:
                timer.when = round(timer.when + timer.period, 6)
                self._periodic.add(timer)
            else:
                timer.callback = None
            if callback is not None:
                has_run = True
                call(callback)
        self._now = self._goal
        return has_run

    def _reach(self) -> None:
        """Note how far a running clock has come: its timers are due up to there."""
        if self._base is not None:
            now = _real_now()
            self._goal = self._now + now - self._base
            self._base = now

    def _take(self, goal: float) -> Timer | None:
        """The next timer that is due by ``goal``."""
        self._skip(goal)
        first, beat = self._timers.due(), self._periodic.due()
        if beat is not None and (first is None or beat < first):
            return self._periodic.take(goal)
        return self._timers.take(goal)

    def _skip(self, goal: float) -> None:
        """Let the timer with a period that is due first be due at the last of its moments up to ``goal``."""
        timer = self._periodic.take(goal)
        if timer is None:
            return
        skipped = round(timer.when + int((goal - timer.when) / timer.period) * timer.period, 6)
        timer.when = skipped if skipped <= goal else max(timer.when, round(skipped - timer.period, 6))
        self._periodic.add(timer)
