"""Timers, and the heap that has them in the order in which they are due."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timer:
    """A callback that is due at a moment, unless it is cancelled. With a ``period`` it is due again and again."""

    __slots__ = ("callback", "period", "when")

    def __init__(self, when: float, callback: Callable[[], object], period: float = 0.0) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback
        self.period = period

    def cancel(self) -> None:
        """Forget the callback. Harmless when it has run."""
        self.callback = None


class Timers:
    """Timers by the moment at which they are due; those of one moment in the order in which they were added."""

    __slots__ = ("_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def add(self, timer: Timer) -> Timer:
        """Add a timer, which may have been taken before."""
        heapq.heappush(self._heap, (timer.when, next(self._order), timer))
        return timer

    def due(self) -> float | None:
        """When the first one is due; None if there is none."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take(self, now: float) -> Timer | None:
        """Take the first timer out if it is due by ``now``."""
        due = self.due()
        return heapq.heappop(self._heap)[2] if due is not None and due <= now else None
