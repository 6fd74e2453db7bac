"""The signal that a job gets before its time is over: the shell option ``signal`` (``flux run --signal``)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from pytest_flux.broker.exec.options import signal_options
from pytest_flux.broker.exec.output import NOTICE
from pytest_flux.reactor.reactor import Reactor, Timer

_COMPONENT = "signal"


class LimitWarning:
    """Of one job. ShellFailure for an option that makes no sense."""

    def __init__(
        self,
        reactor: Reactor,
        shell_options: dict[str, Any],
        log: Callable[[int, str, str], None],
        kill: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._wanted = signal_options(shell_options)
        self._log = log
        self._kill = kill
        self._timer: Timer | None = None

    def arm(self, expiration: float) -> None:
        """The time limit is this, in seconds since the epoch; 0 is none."""
        self.cancel()
        wanted = self._wanted
        if wanted is None:
            return
        name = signal.Signals(wanted.signum).name
        if not expiration:
            self._log(NOTICE, f"job has no expiration, {name} will not be sent", _COMPONENT)
            return

        def warn() -> None:
            text = f"job will expire in {wanted.timeleft:.1f}s, sending {name} to job"
            self._log(NOTICE, text, _COMPONENT)
            self._kill(wanted.signum)

        delay = max(0.0, expiration - wanted.timeleft - self._reactor.clock.time())
        self._timer = self._reactor.call_later(delay, warn)

    def cancel(self) -> None:
        """Send nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
