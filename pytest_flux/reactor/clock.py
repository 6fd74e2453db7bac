"""The time, for all that runs on one reactor.

Whoever runs on a reactor asks the reactor's clock, never the module ``time``: then whoever owns the reactor owns the
time of everything on it. Deadlines of blocking socket calls, for which the kernel has the clock, are the exception.
"""

from __future__ import annotations

import time


class Clock:
    """The time of the system."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    """Seconds since some moment; never goes back. Timers and durations are measured in it."""

    time = staticmethod(time.time)
    """Seconds since the epoch, as in event logs and job attributes."""
