"""The exit timer: how long brokers may outlive others before they are killed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from pytest_flux.reactor.reactor import Reactor, Timer


class ExitReaper:
    """Calls ``expired`` ``timeout`` seconds after brokers should have begun to leave, unless all are gone.

    Mode ``any``: when some, but not all, are running. Mode ``leader``: when rank 0 is not, and others are.
    """

    def __init__(self, reactor: Reactor, size: int, mode: str, timeout: float, expired: Callable[[], None]) -> None:
        self._reactor = reactor
        self._size = size
        self._mode = mode
        self._timeout = timeout
        self._expired = expired
        self._timer: Timer | None = None
        self._leaving = False

    def update(self, running: Collection[int]) -> None:
        """Look at the ranks that run. To be called when a broker has ended, and only then.

        As in flux-start, a rank that is started again does not stop the timer by itself, and a timer that has run
        out is not started again before a broker's end finds the condition false.
        """
        some_gone = len(running) < self._size if self._mode == "any" else 0 not in running
        leaving = some_gone and bool(running)
        if leaving and not self._leaving and math.isfinite(self._timeout):
            self._timer = self._reactor.call_later(self._timeout, self._expired)
        elif not leaving:
            self.cancel()
        self._leaving = leaving

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
