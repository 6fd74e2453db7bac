"""What follows from the end of a job's first task: the shell options ``exit-on-error`` and ``exit-timeout``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import options
from pytest_flux.broker.exec.task import exit_code
from pytest_flux.protocol.duration import format_duration
from pytest_flux.reactor.reactor import Timer

if TYPE_CHECKING:
    from pytest_flux.reactor.reactor import Reactor

Doomed = Callable[[str, int, "int | None"], None]
"""Takes what to say, the exit code, and the wait status of the task at fault, if it was one."""


class Doom:
    """Watches one job. ShellFailure for options that make no sense."""

    def __init__(self, reactor: Reactor, shell_options: dict[str, Any], doomed: Doomed) -> None:
        self._reactor = reactor
        self._timeout = options.exit_timeout(shell_options)
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
            self._timer = self._reactor.call_later(self._timeout, lambda: self._doomed(text, code, status))

    def stop(self) -> None:
        """All tasks have ended."""
        if self._timer is not None:
            self._timer.cancel()


def _disposition(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.strsignal(os.WTERMSIG(status)) or f"Unknown signal {os.WTERMSIG(status)}"
    return f"Exit {os.WEXITSTATUS(status)}"
