"""How a job is brought to its end: signals that grow harder, a warning before the time limit, the end of one task."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_flux.broker.exec.options import NOTICE, exit_timeout, signal_options
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.wait_status import exit_code, signal_text
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.timers import Timer

_SHELL_AFTER = 5
"""After this many kill timeouts, the shell itself is killed (flux-core's job-exec)."""

_LONGEST = 300.0
"""The time between two attempts to kill a shell doubles up to this many seconds."""

_WARNING = "signal"
"""The component that the log names for a warning: the shell option."""


class KillConfig(NamedTuple):
    """What the ``[exec]`` table of the configuration says about kills (flux-config-exec(5))."""

    timeout: float = 5.0
    term_signal: int = signal.SIGTERM
    kill_signal: int = signal.SIGKILL
    max_count: int = 8
    max_timeout: float = -1.0

    @property
    def effective_max_timeout(self) -> float:
        """Seconds from the first signal until the ladder gives up."""
        if self.max_timeout > 0:
            return self.max_timeout
        total, step = self.timeout * _SHELL_AFTER, self.timeout
        for _ in range(self.max_count - 1):
            total += step
            step = min(step * 2, _LONGEST)
        return total


def kill_config(config: Mapping[str, Any]) -> KillConfig:
    """Read the configuration. Wrong values mean the defaults."""
    table = config.get("exec")
    if not isinstance(table, dict):
        return KillConfig()
    chosen = KillConfig()
    count = str(table.get("max-kill-count", ""))
    return chosen._replace(
        timeout=_seconds(table, "kill-timeout", chosen.timeout),
        term_signal=find_signal(table.get("term-signal")) or chosen.term_signal,
        kill_signal=find_signal(table.get("kill-signal")) or chosen.kill_signal,
        max_count=int(count) if count.isdigit() and int(count) else chosen.max_count,
        max_timeout=_seconds(table, "max-kill-timeout", chosen.max_timeout),
    )


def _seconds(table: Mapping[str, Any], name: str, default: float) -> float:
    try:
        return parse_duration(str(table[name]))
    except (KeyError, ProtocolError):
        return default


def find_signal(name: object) -> int | None:
    """The number of a signal, by its name with or without SIG; None if there is none."""
    known = getattr(signal, str(name).upper(), None) or getattr(signal, f"SIG{str(name).upper()}", None)
    return int(known) if isinstance(known, signal.Signals) else None


class KillLadder:
    """Ends a job: a signal to its tasks, then another one again and again, then signals to its shells.

    ``kill`` signals all tasks, ``kill_shells`` all shells. If shells remain nevertheless, ``give_up`` is called with
    the name of the limit that was reached (flux-core's job-exec.c: then the job ends without them, and their nodes
    are drained).
    """

    def __init__(
        self,
        reactor: Reactor,
        config: KillConfig,
        kill: Callable[[int], None],
        kill_shells: Callable[[int], None],
        give_up: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._kill = kill
        self._kill_shells = kill_shells
        self._give_up = give_up
        self._timers: dict[str, Timer] = {}
        self.timeout = config.timeout
        self.count = 0
        self.shell_count = 0

    def start(self, signum: int) -> None:
        """Send a signal; the others follow by themselves. Another call only sends its signal."""
        if not self._timers:
            config = self._config
            self._later("tasks", config.timeout, self._kill_again)
            self._later("shells", config.timeout * _SHELL_AFTER, self._kill_shells_again)
            if config.max_timeout > 0:
                self._later("end", config.max_timeout, lambda: self._give_up("max-kill-timeout"))
        self._kill(signum)

    def _later(self, step: str, delay: float, function: Callable[[], None]) -> None:
        self._timers[step] = self._reactor.call_later(delay, function)

    def _kill_again(self) -> None:
        self._later("tasks", self._config.timeout, self._kill_again)
        self.count += 1
        self._kill(self._config.kill_signal)

    def _kill_shells_again(self) -> None:
        self._timers["tasks"].cancel()
        self.timeout = min(self.timeout * 2, _LONGEST)
        self._later("shells", self.timeout, self._kill_shells_again)
        self.shell_count += 1
        self._kill_shells(self._config.kill_signal)
        if self._timers and "end" not in self._timers and self.shell_count >= self._config.max_count:
            self._give_up("max kill count")

    def stop(self) -> None:
        """The job is over."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers = {}


class LimitWarning:
    """The signal before a job's time limit: the shell option ``signal`` (``flux run --signal``).

    ShellFailure for a wrong option.
    """

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
        """Set the time limit, in seconds since the epoch; 0 is no limit."""
        self.cancel()
        wanted = self._wanted
        if wanted is None:
            return
        name = _signal_name(wanted.signum)
        if not expiration:
            self._log(NOTICE, f"job has no expiration, {name} will not be sent", _WARNING)
            return

        def warn() -> None:
            text = f"job will expire in {wanted.timeleft:.1f}s, sending {name} to job"
            self._log(NOTICE, text, _WARNING)
            self._kill(wanted.signum)

        delay = max(0.0, expiration - wanted.timeleft - self._reactor.clock.time())
        self._timer = self._reactor.clock.call_later(delay, warn)

    def cancel(self) -> None:
        """Send nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        # flux-core has no names for real-time signals, and its printf says this.
        return "(null)"


Doomed = Callable[[str, int, "int | None"], None]
"""Takes the reason, the exit code, and the wait status of the task at fault, if it was a task."""


class ExitPolicy:
    """Ends a job after its first task: the shell options ``exit-on-error`` and ``exit-timeout``.

    ShellFailure for wrong options.
    """

    def __init__(self, reactor: Reactor, shell_options: dict[str, Any], doomed: Doomed) -> None:
        self._reactor = reactor
        self._timeout = exit_timeout(shell_options)
        self._on_error = shell_options.get("exit-on-error") not in (None, 0, False)
        self._doomed = doomed
        self._timer: Timer | None = None
        self.has_begun = False

    def begin(self, program: str, what: str, rank: int, host: str, status: int | None) -> None:
        """The first task has ended with this wait status, or a shell was lost."""
        if self.has_begun:
            return
        self.has_begun = True
        code = 1 if status is None else exit_code(status)
        subject = f"{os.path.basename(program)}: {what} rank {rank} on host {host}"
        how = "" if status is None else f" ({_disposition(status)})"
        if self._on_error and code:
            self._doomed(f"{subject} failed{how} and exit-on-error is set", code, status)
        elif self._timeout is not None:
            limit = format_duration(self._timeout)
            text = f"{subject} exited{how} and exit-timeout={limit} has expired"
            self._timer = self._reactor.clock.call_later(self._timeout, lambda: self._doomed(text, code, status))

    def stop(self) -> None:
        """All tasks have ended."""
        if self._timer is not None:
            self._timer.cancel()


def _disposition(status: int) -> str:
    return signal_text(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else f"Exit {os.WEXITSTATUS(status)}"
