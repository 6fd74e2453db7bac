"""Child processes on the reactor: their standard streams, stops and ends call back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from pytest_flux.reactor.pipe import PipeReader, PipeWriter
from pytest_flux.reactor.program import STDERR, STDIN, STDOUT, start_program
from pytest_flux.reactor.reactor import Reactor


class Process:
    """A running child.

    A stream with a callback is a pipe (``on_stdin`` is called when the child takes some); the others are ours, or
    /dev/null if ``discard``. ``exited`` is called with the wait status when the child has ended, ``ended`` when all
    pipes are at their end too. With ``group`` the child leads a process group, which ``kill`` then signals.
    Raises OSError if the program cannot be executed.
    """

    def __init__(
        self,
        reactor: Reactor,
        argv: Sequence[str],
        *,
        ended: Callable[[int], None],
        exited: Callable[[int], None] = lambda _: None,
        stopped: Callable[[int], None] | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: str | None = None,
        on_stdin: Callable[[int], None] | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        group: bool = True,
        discard: bool = False,
    ) -> None:
        self._on_exit = exited
        self._ended = ended
        self._group = group
        self._streams = 0
        self._status: int | None = None
        self._readers: list[PipeReader] = []
        callbacks: dict[int, Callable[..., None] | None] = {STDIN: on_stdin, STDOUT: on_stdout, STDERR: on_stderr}
        self.pid, pipes = start_program(
            argv,
            environ=environ,
            cwd=cwd,
            pipes=[stream for stream, callback in callbacks.items() if callback is not None],
            discard=discard,
            group=group,
        )
        reactor.on_child(self.pid, self._exited, stopped)
        self.stdin = PipeWriter(reactor, pipes[STDIN], on_stdin) if STDIN in pipes else None
        for stream, callback in ((STDOUT, on_stdout), (STDERR, on_stderr)):
            if callback is not None:
                self._streams += 1
                self._readers.append(PipeReader(reactor, pipes[stream], self._relay(callback)))

    @property
    def is_running(self) -> bool:
        """Whether the child has not ended."""
        return self._status is None

    def kill(self, signum: int) -> None:
        """Signal the child, and its group if it has one. ProcessLookupError if nothing is left of it."""
        if self._group:
            os.killpg(self.pid, signum)
        elif self.is_running:
            os.kill(self.pid, signum)
        else:
            raise ProcessLookupError(self.pid)

    def pause(self, paused: bool) -> None:
        """Leave the output unread, or read on."""
        for reader in self._readers:
            reader.pause(paused)

    def destroy(self) -> None:
        """Kill the child and its group, and close the streams. There are no further callbacks."""
        self._on_exit = self._ended = lambda _: None
        try:
            self.kill(signal.SIGKILL)
        except ProcessLookupError:
            pass
        for reader in self._readers:
            reader.close()
        if self.stdin is not None:
            self.stdin.close()

    def _relay(self, callback: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def relay(data: bytes) -> None:
            callback(data)
            if not data:
                self._streams -= 1
                self._finish()

        return relay

    def _exited(self, status: int) -> None:
        self._status = status
        if self.stdin is not None:
            self.stdin.close()
        self._on_exit(status)
        self._finish()

    def _finish(self) -> None:
        if self._status is not None and not self._streams:
            self._ended(self._status)
