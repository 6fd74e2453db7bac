"""How a job is brought to its end: a signal, then SIGKILL again and again, and at last without its cooperation."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.reactor.reactor import Reactor, Timer

_SHELL_AFTER = 5
"""So many times the kill timeout tasks have before their shell is killed (flux-core's job-exec)."""


class KillConfig(NamedTuple):
    """From the configuration's ``[exec]`` table: flux-config-exec(5)."""

    timeout: float = 5.0
    term_signal: int = signal.SIGTERM
    kill_signal: int = signal.SIGKILL


def kill_config(config: dict[str, Any]) -> KillConfig:
    """What the configuration says; the defaults for what it says wrongly."""
    table = config.get("exec")
    if not isinstance(table, dict):
        return KillConfig()
    chosen = KillConfig()
    try:
        chosen = chosen._replace(timeout=parse_duration(str(table["kill-timeout"])))
    except (KeyError, ProtocolError):
        pass
    return chosen._replace(
        term_signal=_signum(table.get("term-signal"), chosen.term_signal),
        kill_signal=_signum(table.get("kill-signal"), chosen.kill_signal),
    )


def _signum(name: object, default: int) -> int:
    known = getattr(signal, str(name).upper(), None) or getattr(signal, f"SIG{str(name).upper()}", None)
    return int(known) if isinstance(known, signal.Signals) else default


class KillLadder:
    """``kill`` signals all tasks, ``destroy`` ends all shells."""

    def __init__(
        self, reactor: Reactor, config: KillConfig, kill: Callable[[int], None], destroy: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._kill = kill
        self._destroy = destroy
        self._timers: list[Timer] = []

    @property
    def is_climbing(self) -> bool:
        """Whether this has begun."""
        return bool(self._timers)

    def start(self, signum: int) -> None:
        """Send a signal; more follows by itself. Again only sends the signal."""
        begun = self.is_climbing
        if not begun:
            timeout = self._config.timeout
            self._timers = [
                self._reactor.call_later(timeout, self._kill_again),
                self._reactor.call_later(timeout * _SHELL_AFTER, self._destroy),
            ]
        self._kill(signum)

    def _kill_again(self) -> None:
        self._kill(self._config.kill_signal)
        if self._timers:
            self._timers[0] = self._reactor.call_later(self._config.timeout, self._kill_again)

    def stop(self) -> None:
        """The job is over."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
