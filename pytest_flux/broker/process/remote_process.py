"""A process that a client has asked for, and the clients that listen to it (RFC 42)."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable

from pytest_flux.broker.flow import Flow
from pytest_flux.broker.process.remote_command import Command
from pytest_flux.broker.service import Request
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.ioencode import decode_io, encode_io
from pytest_flux.protocol.message import encode_json
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO
from pytest_flux.reactor.pipe import LineBuffer
from pytest_flux.reactor.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor

    class ProcessOwner(Protocol):
        """What a process asks of the service that has started it."""

        router: Router

        def log(self, severity: int, text: str) -> None:
            """Log in the name of the service."""

        def settle(self, process: RemoteProcess) -> None:
            """The process has ended: forget it if nobody waits for it."""


STDOUT, STDERR, CHANNEL, WRITE_CREDIT, WAITABLE = 1, 2, 4, 8, 16
PASS_THROUGH, SAME_GROUP = 1, 2
"""Local flags: standard streams are the broker's, and so is the process group."""

_RETAINED_OUTPUT = 8192


class RemoteProcess:
    """A process run for a client. ``listener`` is the request that gets its output; None in the background.

    ``flow`` is the stream of answers to it. While that is full, output that was read waits here, and the rest in the
    pipes. Raises OSError or ValueError if the process cannot be started.
    """

    def __init__(
        self,
        owner: ProcessOwner,
        reactor: Reactor,
        request: Request,
        command: Command,
        environ: dict[str, str],
        flags: int,
        local_flags: int = 0,
    ) -> None:
        self._owner = owner
        self.command = command
        self.flags = flags
        self.background = not request.message.is_streaming
        self.listener: Request | None = None
        self.flow: Flow | None = None
        self._waiting: deque[tuple[str, bytes]] = deque()
        if not self.background:
            self._listen(request)
        self.waitable = self.background and bool(flags & WAITABLE)
        self.waiter: Request | None = None
        self.status: int | None = None
        self.is_complete = self._has_ended = False
        self.retained: list[dict[str, Any]] = []
        self._retained_size = 0
        self._closed: list[str] = []
        self._window = command.buffer_size("stdin")
        self._lines = {
            stream: LineBuffer(command.buffer_size(stream)) if command.is_line_buffered(stream) else None
            for stream in ("stdout", "stderr")
        }
        lost = 0 if command.cwd is None else _cannot_enter(command.cwd)
        self._process = self._start(reactor, environ, "/tmp" if lost else command.cwd, local_flags)
        self.pid = self._process.pid
        request.respond({"type": "started", "pid": self.pid})
        if lost:
            reason = f"Could not change dir to {command.cwd}: {os.strerror(lost)}. Going to /tmp instead\n"
            self._output("stderr", reason.encode())
        if self.background:
            self.write(b"", eof=True)
        else:
            self._credit(self._window)

    def _start(self, reactor: Reactor, environ: dict[str, str], cwd: str | None, local_flags: int) -> Process:
        own = not local_flags & PASS_THROUGH
        return Process(
            reactor,
            self.command.cmdline,
            ended=self._ended,
            exited=self._exited,
            stopped=lambda _: self._tell({"type": "stopped"}),
            environ=environ,
            cwd=cwd,
            on_stdin=self._credit if own else None,
            on_stdout=self._reader("stdout", STDOUT) if own else None,
            on_stderr=self._reader("stderr", STDERR) if own else None,
            group=not local_flags & SAME_GROUP,
            discard=own,
        )

    def _reader(self, stream: str, flag: int) -> Callable[[bytes], None] | None:
        if not self.background and not self.flags & flag:
            return None
        return lambda data: self._output(stream, data)

    # -- requests

    def kill(self, signum: int) -> None:
        """Signal the process and its group. FluxError if the kernel refuses."""
        try:
            self._process.kill(signum)
        except OSError as error:
            raise FluxError(error.errno or errno.ESRCH, f"killpg: {error.strerror}") from None

    def write(self, data: bytes, *, eof: bool) -> None:
        """Feed standard input."""
        if self._process.stdin is not None:
            self._process.stdin.write(data)
            if eof:
                self._process.stdin.end()

    def attach(self, request: Request, flags: int) -> None:
        """Make a client the listener of a background process, which may have ended."""
        self.flags = flags
        self._listen(request)
        command = self.command
        cmd: dict[str, Any] = {} if command.cwd is None else {"cwd": command.cwd}
        if command.label is not None:
            cmd["label"] = command.label
        cmd |= {"cmdline": command.cmdline, "env": command.env, "opts": command.opts, "channels": [], "msgchan": []}
        self._tell({"type": "attached", "pid": self.pid, "cmd": cmd})
        for stream in self._closed:
            self._forward(stream, encode_io(stream, str(self._owner.router.rank), eof=True))
        if self.status is not None:
            self._tell({"type": "finished", "status": self.status})
        if self.is_complete:
            self.waitable = False
            self._finish()

    def destroy(self) -> None:
        """Kill it. Nobody hears about it."""
        self._process.destroy()

    # -- progress

    def _listen(self, request: Request) -> None:
        self.listener, self.flow = request, Flow(request, self._resume)

    def leave(self) -> None:
        """The listener is gone: drop the output."""
        self.listener = self.flow = None
        self._resume()

    def _tell(self, answer: dict[str, Any]) -> None:
        if self.flow is not None:
            self.flow.send(encode_json(answer))

    def _credit(self, count: int) -> None:
        if self.flags & WRITE_CREDIT:
            self._tell({"type": "add-credit", "channels": {"stdin": count}})

    def _output(self, stream: str, data: bytes) -> None:
        lines = self._lines[stream]
        pieces = lines.feed(data) if lines is not None else [data] if data else []
        self._waiting.extend((stream, piece) for piece in pieces)
        if not data:
            self._waiting.append((stream, b""))
        self._put_out()

    def _put_out(self) -> None:
        while self._waiting and (self.flow is None or self.flow.is_open):
            stream, piece = self._waiting.popleft()
            if piece:
                self._emit(stream, piece)
            else:
                self._closed.append(stream)
                self._forward(stream, encode_io(stream, str(self._owner.router.rank), eof=True))
        self._process.pause(bool(self._waiting))

    def _resume(self) -> None:
        self._put_out()
        self._end()

    def _forward(self, stream: str, io: dict[str, Any]) -> None:
        if self.flags & (STDOUT if stream == "stdout" else STDERR):
            self._tell({"type": "output", "pid": self.pid, "io": io})

    def _emit(self, stream: str, piece: bytes) -> None:
        io = encode_io(stream, str(self._owner.router.rank), piece)
        self._forward(stream, io)
        if self.background:
            name = self.command.label or os.path.basename(self.command.cmdline[0])
            severity = LOG_ERR if stream == "stderr" else LOG_INFO
            self._owner.log(severity, f"{name}[{self.pid}]: {piece.decode(errors='replace')}")
            if self.waitable:
                self._retain(io, len(piece))

    def _retain(self, io: dict[str, Any], size: int) -> None:
        self.retained.append(io)
        self._retained_size += size
        while self._retained_size > _RETAINED_OUTPUT and len(self.retained) > 1:
            self._retained_size -= len(decode_io(self.retained.pop(0)).data)

    def _exited(self, status: int) -> None:
        self.status = status
        self._tell({"type": "finished", "status": status})

    def _ended(self, _: int) -> None:
        self._has_ended = True
        self._end()

    def _end(self) -> None:
        """Finish once the process has ended and all its output was sent."""
        status = self.status
        if status is None or not self._has_ended or self._waiting or self.is_complete:
            return
        self.is_complete = True
        if self.background:
            label = f"{self.command.label}: " if self.command.label else ""
            name = self.command.cmdline[0]
            if os.WIFSIGNALED(status):
                how = f"{name}[{self.pid}]: Killed by signal {os.WTERMSIG(status)}"
            else:
                how = f"{os.path.basename(name)}[{self.pid}]: Exit {os.WEXITSTATUS(status)}"
            self._owner.log(LOG_INFO, label + how)
        self._finish()

    def _finish(self) -> None:
        if self.listener is not None:
            self.listener.finish()
        self._owner.settle(self)


def _cannot_enter(directory: str) -> int:
    """Why a directory cannot become the current one, as errno; 0 if it can."""
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY if hasattr(os, "O_PATH") else os.O_RDONLY)
    except OSError as error:
        return error.errno or errno.ENOENT
    os.close(descriptor)
    return 0 if os.access(directory, os.X_OK) else errno.EACCES
