"""`rexec`: run processes at this broker (RFC 42), in the foreground of a client or in the background."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from pytest_flux.broker.process.remote_command import Command
from pytest_flux.broker.process.remote_process import PASS_THROUGH, WAITABLE, WRITE_CREDIT, RemoteProcess
from pytest_flux.broker.service import LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.message import ROLE_LOCAL
from pytest_flux.protocol.severity import LOG_ERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.process.runat import Runat
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor

_SHUTDOWN_TIMEOUT = 5.0
_NEVER_PASSED_ON = ("FLUX_PROXY_REMOTE", "NOTIFY_SOCKET", "INVOCATION_ID")


class RexecService(Service):
    """Processes of this broker that were started by request."""

    name = "rexec"

    def __init__(
        self,
        router: Router,
        log: BrokerLog,
        reactor: Reactor,
        attributes: Attributes,
        config: dict[str, Any],
        runat: Runat,
        environ: Callable[[], dict[str, str]],
    ) -> None:
        super().__init__(router, log)
        self._reactor = reactor
        self._attributes = attributes
        self._config = config
        self._runat = runat
        self._program_environ = environ
        self._is_closing = False
        self._processes: list[RemoteProcess] = []
        self._done: Callable[[], None] | None = None

    def receive(self, message: Any) -> None:  # noqa: ANN401
        """Handle one request, unless it comes to rank 0 from another rank of an instance that has guests."""
        guests = self._config.get("access", {}).get("allow-guest-user") is True
        if self.router.rank == 0 and guests and not message.rolemask & ROLE_LOCAL:
            text = "Remote rexec requests are not allowed on rank 0"
            self.router.refuse(message, errno.EPERM, text)
        else:
            super().receive(message)

    @staticmethod
    def _refuse_signature(request: Request) -> None:
        """Refuse a signed request (RFC 42), as flux-core's servers do that have no security context."""
        if request.field("signature", str, None) is not None:
            raise FluxError(errno.EPERM, "signature verification not available")

    @property
    def is_busy(self) -> bool:
        """Whether a process runs."""
        return any(not process.is_complete for process in self._processes)

    def environ(self, command: Command) -> dict[str, str]:
        """What a command runs with: its own environment, or ours; FLUX_URI is always this broker's."""
        environ = dict(command.env) or self._program_environ()
        environ["FLUX_URI"] = self._attributes.get("local-uri") or ""
        for name in _NEVER_PASSED_ON:
            environ.pop(name, None)
        return environ

    @method("exec")
    def exec(self, request: Request) -> Answer | _Later:
        """``{cmd, flags, local_flags?}`` → ``{type: started|output|add-credit|stopped|finished, ...}`` (RFC 42)."""
        self._refuse_signature(request)
        value, flags = request.field("cmd", dict), request.field("flags", int)
        local_flags = request.field("local_flags", int, 0)
        background = not request.message.is_streaming
        if self._is_closing:
            raise FluxError(errno.ENOSYS, "subprocess server is shutting down")
        if background and flags & WRITE_CREDIT:
            raise FluxError(errno.EINVAL, "write-credit flag is not allowed in background mode")
        if background and local_flags & PASS_THROUGH:
            raise FluxError(errno.EINVAL, "stdio-fallthrough flag is not allowed in background mode")
        command = Command(value)
        if command.label and any(process.command.label == command.label for process in self._processes):
            # flux-core does not set an error number here; this is the one that clients see.
            raise FluxError(errno.EEXIST, "command label is not unique")
        if not command.cmdline:
            raise FluxError(errno.EPROTO, "command string is empty")
        if value["channels"]:
            if background:
                raise FluxError(errno.EINVAL, "auxiliary channels are not allowed in background mode")
            raise FluxError(errno.ENOTSUP, "embedded brokers have no auxiliary channels: install flux-core")
        if not background and flags & WAITABLE:
            raise FluxError(errno.EINVAL, "waitable flag only supported in background mode")
        try:
            environ = self.environ(command)
            self._processes.append(RemoteProcess(self, self._reactor, request, command, environ, flags, local_flags))
        except (OSError, ValueError) as error:
            errnum = getattr(error, "errno", None) or errno.EINVAL
            raise FluxError(errnum, f"error launching process: {os.strerror(errnum)}") from None
        return LATER

    @method("credit")
    def credit(self, request: Request) -> Answer:
        """``{matchtag, size}``: the client of that request has read ``size`` bytes of output; never answered."""
        for process in self._processes:
            if process.flow is not None:
                process.flow.credit(request)
        return None

    @method("write")
    def write(self, request: Request) -> Answer:
        """``{matchtag, io}``: standard input for the process of that request; never answered."""
        try:
            io, matchtag = decode_io(request.field("io", dict)), request.field("matchtag", int)
        except ProtocolError as error:
            self.log(LOG_ERR, f"Error decoding rexec.write request: {error}")
            raise
        for process in self._processes:
            listener = process.listener
            if listener and listener.sender == request.sender and listener.message.matchtag == matchtag:
                if io.stream == "stdin":
                    process.write(io.data, eof=io.eof)
                else:
                    self.log(LOG_ERR, f"Error writing {len(io.data)} bytes to subprocess {io.stream}")
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
        """``{pid, label?, signum}`` → empty; ESRCH if there is no such process."""
        self._refuse_signature(request)
        pid, signum = request.field("pid", int), request.field("signum", int)
        label = request.field("label", str, None)
        if not self._runat.kill(pid if label is None else label, signum):
            self._process(request).kill(signum)
        return None

    @method("wait")
    def wait(self, request: Request) -> Answer | _Later:
        """``{pid, label?}`` → ``{status, output?}`` of a waitable background process, once."""
        self._refuse_signature(request)
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
        self._refuse_signature(request)
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
        """→ ``{rank, procs: [{pid, cmd, label, state}]}``; this includes the programs of the broker's own phases."""
        self._refuse_signature(request)
        procs = [
            {"pid": pid, "cmd": argv[0], "label": label, "state": "R"} for label, argv, pid in self._runat.running()
        ]
        procs += [
            {
                "pid": process.pid,
                "cmd": process.command.name,
                "label": process.command.label or "",
                "state": "Z" if process.is_complete else "R",
            }
            for process in self._processes
        ]
        return {"rank": self.router.rank, "procs": procs}

    @method("disconnect")
    def disconnect(self, request: Request) -> Answer:
        """Kill the foreground processes of a client that has disconnected."""
        for process in list(self._processes):
            if process.listener is not None and process.listener.sender == request.sender:
                if not process.background and process.status is None:
                    process.kill(signal.SIGKILL)
                process.leave()
            if process.waiter is not None and process.waiter.sender == request.sender:
                process.waiter = None
        return None

    def settle(self, process: RemoteProcess) -> None:
        """Forget a process that has ended, unless someone may still wait for it."""
        if not process.is_complete:
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
        if self._done is not None and not self._processes:
            done, self._done = self._done, None
            done()

    def shut_down(self, done: Callable[[], None]) -> None:
        """Terminate all processes, then call ``done``, within five seconds; ``destroy`` kills the rest."""
        self._is_closing = True
        for process in list(self._processes):
            process.waitable = False
            if process.is_complete:
                self._processes.remove(process)
            elif process.status is None:
                process.kill(signal.SIGTERM)
        if not self._processes:
            done()
            return
        self._done = done
        self._reactor.call_later(_SHUTDOWN_TIMEOUT, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._done is not None:
            self.log(LOG_ERR, f"subprocess server shutdown: {os.strerror(errno.ETIMEDOUT)}")
            done, self._done = self._done, None
            done()

    def destroy(self) -> None:
        """Kill all remaining processes: none outlives its broker."""
        for process in self._processes:
            process.destroy()
