"""The programs of a broker's own life: rc1, the initial program (rc2), cleanup and rc3 (flux-core's runat.c)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from pytest_flux.broker.process.programs import shell
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO
from pytest_flux.protocol.wait_status import exit_code, signal_text
from pytest_flux.reactor.pipe import LineBuffer
from pytest_flux.reactor.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.reactor.reactor import Reactor

ABORT_SIGNAL = signal.SIGHUP

_LONGEST_LINE = 1 << 20
"""A longer line is logged in pieces."""


class _Phase:
    """The commands of one phase, and which of them are left."""

    __slots__ = ("aborted", "code", "commands", "count", "done", "logged", "process")

    def __init__(self, *, logged: bool) -> None:
        self.commands: list[list[str]] = []
        self.count = 0
        self.logged = logged
        self.code = 0
        self.aborted = False
        self.process: Process | None = None
        self.done: Callable[[int], None] = lambda _: None


class Runat:
    """Runs the commands of each phase one after another.

    All of them run even if one fails; the first failure is the phase's.
    """

    def __init__(
        self, reactor: Reactor, attributes: Attributes, log: BrokerLog, environ: Callable[[], dict[str, str]]
    ) -> None:
        self._reactor = reactor
        self._attributes = attributes
        self._broker_log = log
        self._environ = environ
        self._phases: dict[str, _Phase] = {}
        self._terminal: list[Any] | None = None

    def push(self, name: str, argv: list[str], *, logged: bool) -> None:
        """Put a command before the others of its phase. If ``logged``, its output goes to the log."""
        phase = self._phases.setdefault(name, _Phase(logged=logged))
        phase.commands.insert(0, argv)
        phase.count += 1

    def push_shell(self, name: str, command: str, *, logged: bool) -> None:
        """Do the same with a command line for a shell."""
        self.push(name, [shell(), "-c", command], logged=logged)

    def start(self, name: str, done: Callable[[int], None]) -> bool:
        """Start a phase; ``done`` gets its exit code. False if there is nothing to run."""
        phase = self._phases.get(name)
        if phase is None:
            return False
        phase.done = done
        self._next(name, phase)
        return True

    def abort(self, name: str) -> bool:
        """Hang up a phase: its running command gets SIGHUP, the others do not run. False if it is unknown."""
        phase = self._phases.get(name)
        if phase is None:
            return False
        phase.aborted = True
        self._kill(phase, ABORT_SIGNAL)
        return True

    def running(self) -> list[tuple[str, list[str], int]]:
        """The commands that run now: phase, argv and process id of each."""
        return [
            (name, phase.commands[0], phase.process.pid)
            for name, phase in self._phases.items()
            if phase.process is not None and phase.process.is_running
        ]

    def kill(self, target: str | int, signum: int) -> bool:
        """Signal the running command of a phase, or of a process id. False if there is none."""
        for name, _, pid in self.running():
            if target in (name, pid):
                self._kill(self._phases[name], signum)
                return True
        return False

    def destroy(self) -> None:
        """Kill what still runs."""
        for phase in self._phases.values():
            if phase.process is not None:
                phase.process.destroy()

    def _kill(self, phase: _Phase, signum: int) -> None:
        if phase.process is not None:
            try:
                phase.process.kill(signum)
            except ProcessLookupError:
                pass

    def _next(self, name: str, phase: _Phase) -> None:
        if phase.aborted:
            phase.commands.clear()
        if not phase.commands:
            self._reactor.call_soon(lambda: phase.done(phase.code))
            return
        argv = phase.commands[0]
        index = phase.count - len(phase.commands)
        started = self._reactor.monotonic()

        def ended(status: int) -> None:
            phase.process = None
            code, how = self._outcome(phase, status)
            self._log(name, index, argv, code, how, self._reactor.monotonic() - started)
            self._restore_foreground()
            self._settle(name, phase, code)

        try:
            phase.process = self._spawn(name, phase, index, argv, ended)
        except OSError as error:
            code = 127 if error.errno == errno.ENOENT else 126
            how = f"error launching process: {os.strerror(error.errno or 0)}"
            self._log(name, index, argv, code, how, 0.0)
            self._settle(name, phase, code)

    def _settle(self, name: str, phase: _Phase, code: int) -> None:
        if code and not phase.code:
            phase.code = code
        phase.commands.pop(0)
        self._next(name, phase)

    def _spawn(self, name: str, phase: _Phase, index: int, argv: list[str], ended: Callable[[int], None]) -> Process:
        leads_group = os.getpgrp() == os.getpid() and "broker.rc2_pgrp" not in self._attributes
        return Process(
            self._reactor,
            argv,
            ended=ended,
            stopped=lambda _: self._to_foreground(phase),
            environ=self._environ(),
            on_stdout=self._logger(name, index, LOG_INFO) if phase.logged else None,
            on_stderr=self._logger(name, index, LOG_ERR) if phase.logged else None,
            # A broker that leads its group signals the group when it exits, to end what rc2 left in the background.
            group=not (name == "rc2" and leads_group),
        )

    def _logger(self, name: str, index: int, severity: int) -> Callable[[bytes], None]:
        lines = LineBuffer(_LONGEST_LINE)

        def log(data: bytes) -> None:
            for line in lines.feed(data):
                text = line.removesuffix(b"\n").decode(errors="replace")
                self._broker_log.write(severity, f"{name}.{index}: {text}")

        return log

    @staticmethod
    def _outcome(phase: _Phase, status: int) -> tuple[int, str]:
        code = exit_code(status)
        if os.WIFSIGNALED(status):
            return code, signal_text(os.WTERMSIG(status))
        if code == 0 and phase.aborted:
            return 1, "aborted after exit with rc=0"
        return code, "Exited"

    def _log(self, name: str, index: int, argv: list[str], code: int, how: str, spent: float) -> None:
        shown = argv[2:] if len(argv) > 2 and argv[:2] == [shell(), "-c"] else argv
        text = f"{name}.{index}: {' '.join(shown)} {how} (rc={code}) {spent:.1f}s"
        self._broker_log.write(LOG_ERR if code else LOG_INFO, text)

    # A program in a process group of its own is stopped when it reads from the terminal. If the broker has the
    # terminal, it then gives it to the program, and takes it back when the program ends.

    def _to_foreground(self, phase: _Phase) -> None:
        if phase.process is None or not os.isatty(0) or os.tcgetpgrp(0) != os.getpgrp():
            return
        if self._terminal is None:
            import termios

            self._terminal = termios.tcgetattr(0)
        os.tcsetpgrp(0, phase.process.pid)
        self._kill(phase, signal.SIGCONT)

    def _restore_foreground(self) -> None:
        if self._terminal is None:
            return
        import termios

        previous = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            os.tcsetpgrp(0, os.getpgrp())
            termios.tcsetattr(0, termios.TCSAFLUSH, self._terminal)
        except OSError as error:
            self._broker_log.write(LOG_ERR, f"failed to reset foreground process group: {error.strerror}")
        finally:
            signal.signal(signal.SIGTTOU, previous)
            self._terminal = None
