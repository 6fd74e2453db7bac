"""Child processes on the reactor: standard streams, stops and ends, as callbacks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from pytest_flux.reactor.program import STDERR, STDIN, STDOUT, start_program
from pytest_flux.reactor.reactor import Reactor

_CHUNK = 65536


class PipeReader:
    """Calls back with what comes out of a pipe; with b"" once, at its end."""

    __slots__ = ("_callback", "_fd", "_reactor")

    def __init__(self, reactor: Reactor, fd: int, callback: Callable[[bytes], None]) -> None:
        os.set_blocking(fd, False)
        self._reactor = reactor
        self._fd = fd
        self._callback = callback
        reactor.on_readable(fd, self._read)

    def pause(self, paused: bool) -> None:
        """Read nothing for now, or again: who writes has to wait."""
        if self._fd >= 0:
            self._reactor.on_readable(self._fd, None if paused else self._read)

    def close(self) -> None:
        """Stop reading. Harmless when done."""
        if self._fd >= 0:
            self._reactor.on_readable(self._fd, None)
            os.close(self._fd)
            self._fd = -1

    def broken(self) -> None:
        """Report the end of the pipe: the callback has failed (see pytest_flux.reactor.reactor)."""
        if self._fd >= 0:
            self.close()
            self._callback(b"")

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        self._callback(data)


class PipeWriter:
    """Buffers towards a pipe; ``taken`` is called with the number of bytes each time the reader takes some."""

    __slots__ = ("_eof", "_fd", "_reactor", "_taken", "_unsent")

    def __init__(self, reactor: Reactor, fd: int, taken: Callable[[int], None] | None = None) -> None:
        os.set_blocking(fd, False)
        self._reactor = reactor
        self._fd = fd
        self._taken = taken
        self._unsent = bytearray()
        self._eof = False

    def write(self, data: bytes) -> None:
        """Send; dropped when the reader is gone or the end was said."""
        if self._fd >= 0 and not self._eof and data:
            self._unsent += data
            self._reactor.on_writable(self._fd, self._flush)

    def end(self) -> None:
        """Close when all is sent."""
        self._eof = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        """Close now."""
        if self._fd >= 0:
            self._reactor.on_writable(self._fd, None)
            os.close(self._fd)
            self._fd = -1

    def broken(self) -> None:
        """Close: the callback has failed (see pytest_flux.reactor.reactor)."""
        self.close()

    def _flush(self) -> None:
        try:
            with memoryview(self._unsent) as view:
                sent = os.write(self._fd, view[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
            self.close()
        del self._unsent[:sent]
        if self._taken is not None and sent:
            self._taken(sent)
        if not self._unsent and self._fd >= 0:
            self._reactor.on_writable(self._fd, None)
            if self._eof:
                self.close()


class Process:
    """A running child.

    Its streams pass through unless a callback is given for them (``on_stdin`` for the writer's progress), or go
    nowhere with ``discard``. ``exited`` is called with the wait status when the child has ended, ``ended`` once every
    read stream is at its end besides. ``group`` puts it into a process group of its own, to which ``kill`` then goes.
    Raises OSError when the program cannot be executed.
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
        """Signal the child, and its group if it has one. ProcessLookupError when nothing is there any more."""
        if self._group:
            os.killpg(self.pid, signum)
        elif self.is_running:
            os.kill(self.pid, signum)
        else:
            raise ProcessLookupError(self.pid)

    def pause(self, paused: bool) -> None:
        """Leave what the child puts out where it is, or read on."""
        for reader in self._readers:
            reader.pause(paused)

    def destroy(self) -> None:
        """Kill the child and its group, and close the streams; nothing is called back for what follows."""
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
