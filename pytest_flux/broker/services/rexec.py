"""`rexec`: running processes at this broker (RFC 42), in the foreground of a client or in the background."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.service import LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.ioencode import decode_io, encode_io
from pytest_flux.reactor.process import Process

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker

STDOUT, STDERR, CHANNEL, WRITE_CREDIT, WAITABLE = 1, 2, 4, 8, 16
STDIN_CREDIT = 4 * 1024 * 1024
"""Bytes that a client may send ahead to a process's standard input."""

_RETAINED_OUTPUT = 8192
_LONG_LINE = 4 * 1024 * 1024
_ERR, _INFO = 3, 6
_NEVER_PASSED_ON = ("FLUX_PROXY_REMOTE", "NOTIFY_SOCKET", "INVOCATION_ID")


class Command:
    """What is to be run, checked."""

    __slots__ = ("cmdline", "cwd", "env", "label", "opts")

    def __init__(self, value: dict[str, Any]) -> None:
        cmdline, env = value.get("cmdline"), value.get("env", {})
        if not isinstance(cmdline, list) or not all(isinstance(word, str) for word in cmdline):
            raise FluxError(errno.EPROTO, "error parsing command string")
        if not cmdline:
            raise FluxError(errno.EPROTO, "command string is empty")
        if not isinstance(env, dict) or not all(isinstance(text, str) for text in env.values()):
            raise FluxError(errno.EPROTO, "error parsing command string")
        if value.get("channels") or value.get("msgchan"):
            raise FluxError(errno.ENOTSUP, "embedded brokers have no auxiliary channels: install flux-core")
        self.cmdline: list[str] = cmdline
        self.env: dict[str, str] = env
        self.cwd: str | None = value.get("cwd")
        self.label: str | None = value.get("label")
        self.opts: dict[str, str] = value.get("opts") or {}

    def is_line_buffered(self, stream: str) -> bool:
        """Whether output goes out line by line, which is the rule."""
        option = self.opts.get(f"{stream}_LINE_BUFFER", self.opts.get("LINE_BUFFER", "true"))
        return str(option).lower() != "false"


class RemoteProcess:
    """A process run for a client. ``listener`` is the request that gets its output; none in the background."""

    def __init__(self, service: RexecService, request: Request, command: Command, flags: int) -> None:
        self.service = service
        self.command = command
        self.flags = flags
        self.background = not request.message.is_streaming
        self.listener: Request | None = None if self.background else request
        self.waitable = bool(flags & WAITABLE)
        self.waiter: Request | None = None
        self.status: int | None = None
        self.stopped = False
        self.retained: list[dict[str, Any]] = []
        self._retained_size = 0
        self._closed: list[str] = []
        self._partial = {"stdout": b"", "stderr": b""}
        wanted = {
            name: self.background or bool(flags & flag)
            for name, flag in (("stdout", STDOUT), ("stderr", STDERR))
        }
        self._process = Process(
            service.broker.reactor,
            command.cmdline,
            ended=self._ended,
            stopped=self._stopped,
            environ=service.environ(command),
            cwd=command.cwd,
            on_stdin=self._taken,
            on_stdout=(lambda data: self._output("stdout", data)) if wanted["stdout"] else None,
            on_stderr=(lambda data: self._output("stderr", data)) if wanted["stderr"] else None,
        )
        self.pid = self._process.pid
        request.respond({"type": "started", "pid": self.pid})
        if self.background:
            self.write(b"", eof=True)
        elif flags & WRITE_CREDIT:
            self._taken(STDIN_CREDIT)

    @property
    def name(self) -> str:
        """How the log calls it."""
        return self.command.label or os.path.basename(self.command.cmdline[0])

    def kill(self, signum: int) -> None:
        """Signal the process and its group."""
        try:
            self._process.kill(signum)
        except ProcessLookupError:
            raise FluxError(errno.ESRCH) from None

    def write(self, data: bytes, *, eof: bool) -> None:
        """Feed standard input."""
        if self._process.stdin is not None:
            self._process.stdin.write(data)
            if eof:
                self._process.stdin.end()

    def attach(self, request: Request, flags: int) -> None:
        """Make a client the listener of a background process, which may have ended."""
        self.listener, self.flags = request, flags
        cmd = {"cmdline": self.command.cmdline, "env": {}, "opts": self.command.opts, "channels": []}
        request.respond({"type": "attached", "pid": self.pid, "cmd": cmd})
        for stream in self._closed:
            self._end_stream(stream)
        if self.status is not None:
            self.waitable = False
            self._finish(self.status)

    def destroy(self) -> None:
        """Kill it, without further word."""
        self._process.destroy()

    def _taken(self, count: int) -> None:
        if self.listener is not None and self.flags & WRITE_CREDIT:
            self.listener.respond({"type": "add-credit", "channels": {"stdin": count}})

    def _stopped(self, _: int) -> None:
        self.stopped = True
        if self.listener is not None:
            self.listener.respond({"type": "stopped"})

    def _output(self, stream: str, data: bytes) -> None:
        pieces = [data] if data else []
        if self.command.is_line_buffered(stream):
            lines = (
                (self._partial[stream] + data).splitlines(keepends=True) if data else [self._partial[stream]]
            )
            unfinished = lines.pop() if data and lines and not lines[-1].endswith(b"\n") else b""
            if len(unfinished) > _LONG_LINE:
                lines, unfinished = [*lines, unfinished], b""
            self._partial[stream] = unfinished
            pieces = [line for line in lines if line]
        for piece in pieces:
            self._emit(stream, piece)
        if not data:
            self._closed.append(stream)
            self._end_stream(stream)

    def _end_stream(self, stream: str) -> None:
        if self.listener is not None and self._forwards(stream):
            self._respond_output(encode_io(stream, str(self.service.broker.rank), eof=True))

    def _forwards(self, stream: str) -> bool:
        return bool(self.flags & (STDOUT if stream == "stdout" else STDERR))

    def _emit(self, stream: str, piece: bytes) -> None:
        io = encode_io(stream, str(self.service.broker.rank), piece)
        if self.listener is not None and self._forwards(stream):
            self._respond_output(io)
        if self.background:
            text = piece.decode(errors="replace").rstrip("\n")
            severity = _ERR if stream == "stderr" else _INFO
            self.service.broker.log.write(severity, f"{self.name}[{self.pid}]: {text}", "rexec")
            if self.waitable:
                self._retain(io, len(piece))

    def _respond_output(self, io: dict[str, Any]) -> None:
        assert self.listener is not None
        self.listener.respond({"type": "output", "pid": self.pid, "io": io})

    def _retain(self, io: dict[str, Any], size: int) -> None:
        self.retained.append(io)
        self._retained_size += size
        while self._retained_size > _RETAINED_OUTPUT and len(self.retained) > 1:
            self._retained_size -= len(decode_io(self.retained.pop(0)).data)

    def _ended(self, status: int) -> None:
        self.status = status
        if self.background:
            how = f"Killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
            how = how or f"Exit {os.WEXITSTATUS(status)}"
            prefix = f"{self.command.label}: " if self.command.label else ""
            text = f"{prefix}{os.path.basename(self.command.cmdline[0])}[{self.pid}]: {how}"
            self.service.broker.log.write(_INFO, text, "rexec")
        self._finish(status)

    def _finish(self, status: int) -> None:
        if self.listener is not None:
            self.listener.respond({"type": "finished", "status": status})
            self.listener.finish()
        self.service.settle(self)


class RexecService(Service):
    """Processes of this broker that were started by request."""

    name = "rexec"

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self._processes: list[RemoteProcess] = []

    def environ(self, command: Command) -> dict[str, str]:
        """What a command runs with: its own environment, or ours; FLUX_URI is always this broker's."""
        environ = dict(command.env) or self.broker.program_environ()
        environ["FLUX_URI"] = self.broker.attributes.get("local-uri") or ""
        for name in _NEVER_PASSED_ON:
            environ.pop(name, None)
        return environ

    @method("exec")
    def exec(self, request: Request) -> Answer | _Later:
        """``{cmd, flags}`` → ``{type: started|output|add-credit|stopped|finished, ...}`` (RFC 42)."""
        command, flags = Command(request.field("cmd", dict)), request.field("flags", int)
        background = not request.message.is_streaming
        if self.broker.is_closing:
            raise FluxError(errno.ENOSYS, "subprocess server is shutting down")
        if background and flags & WRITE_CREDIT:
            raise FluxError(errno.EINVAL, "write-credit flag is not allowed in background mode")
        if not background and flags & WAITABLE:
            raise FluxError(errno.EINVAL, "waitable flag only supported in background mode")
        if command.label and any(process.command.label == command.label for process in self._processes):
            raise FluxError(errno.EEXIST, "command label is not unique")
        try:
            self._processes.append(RemoteProcess(self, request, command, flags))
        except (OSError, ValueError) as error:
            errnum = getattr(error, "errno", None) or errno.EINVAL
            raise FluxError(errnum, f"error launching process: {os.strerror(errnum)}") from None
        return LATER

    @method("write")
    def write(self, request: Request) -> Answer:
        """``{matchtag, io}``: standard input for the process of that request; never answered."""
        io, matchtag = decode_io(request.field("io", dict)), request.field("matchtag", int)
        for process in self._processes:
            listener = process.listener
            if listener and listener.sender == request.sender and listener.message.matchtag == matchtag:
                if io.stream != "stdin":
                    raise ProtocolError(f"no stream '{io.stream}' to write to", request.topic)
                process.write(io.data, eof=io.eof)
        return None

    def _process(self, request: Request) -> RemoteProcess:
        pid, label = request.field("pid", int), request.field("label", str, None)
        for process in self._processes:
            if (process.command.label == label) if label is not None else (process.pid == pid):
                return process
        wanted = f"label {label}" if label is not None else f"pid {pid}"
        raise FluxError(errno.ESRCH, f"{wanted} does not belong to any subprocess")

    @method("kill")
    def kill(self, request: Request) -> Answer:
        """``{pid, label?, signum}`` → empty; ESRCH where there is no such process."""
        self._process(request).kill(request.field("signum", int))
        return None

    @method("wait")
    def wait(self, request: Request) -> Answer | _Later:
        """``{pid, label?}`` → ``{status, output?}`` of a waitable background process, once."""
        process = self._process(request)
        if not process.waitable:
            raise FluxError(errno.EINVAL, "process is not waitable")
        if process.waiter is not None:
            raise FluxError(errno.EINVAL, "process is already being waited on")
        if process.listener is not None:
            raise FluxError(errno.EBUSY, "subprocess has a client attached")
        process.waiter = request
        self.settle(process)
        return LATER

    @method("attach")
    def attach(self, request: Request) -> Answer | _Later:
        """``{pid, label?, flags}`` → ``{type: attached, pid, cmd}``, then as exec, of a background process."""
        flags = request.field("flags", int)
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO, "attach request is missing STREAMING flag")
        try:
            process = self._process(request)
        except FluxError as error:
            raise FluxError(errno.ENOENT, error.text) from None
        if not process.background:
            raise FluxError(errno.EBUSY, "subprocess is not in background mode")
        if process.listener is not None:
            raise FluxError(errno.EBUSY, "subprocess already has a client attached")
        if process.waiter is not None:
            raise FluxError(errno.EBUSY, "subprocess is being waited on")
        process.attach(request, flags)
        return LATER

    @method("list")
    def list_processes(self, request: Request) -> Answer:
        """→ ``{rank, procs: [{pid, cmd, label, state}]}``."""
        procs = [
            {
                "pid": process.pid,
                "cmd": process.command.cmdline[0],
                "label": process.command.label or "",
                "state": "Z" if process.status is not None else "R",
            }
            for process in self._processes
        ]
        return {"rank": self.broker.rank, "procs": procs}

    @method("disconnect")
    def disconnect(self, request: Request) -> Answer:
        """A client is gone: its foreground processes are killed."""
        for process in list(self._processes):
            if process.listener is not None and process.listener.sender == request.sender:
                process.listener = None
                if process.status is None and not process.background:
                    process.kill(signal.SIGKILL)
            if process.waiter is not None and process.waiter.sender == request.sender:
                process.waiter = None
        return None

    def settle(self, process: RemoteProcess) -> None:
        """Forget a process that has ended, unless someone may still wait for it."""
        if process.status is None:
            return
        if process.waitable:
            if process.waiter is None:
                return
            answer: dict[str, Any] = {"status": process.status}
            if process.retained:
                answer["output"] = process.retained
            process.waiter.respond(answer)
        if process in self._processes:
            self._processes.remove(process)

    def destroy(self) -> None:
        """Kill whatever still runs: nothing outlives its broker."""
        for process in self._processes:
            if process.status is None:
                process.destroy()
