"""`broker`, `runat` and `shutdown`: the broker as a process, what it runs, and its end."""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.service import Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.stdlog import SEVERITY_NAMES, decode_entry


def _strings(request: Request, name: str) -> list[str]:
    values = request.field(name, list)
    if not all(isinstance(value, str) for value in values):
        raise ProtocolError(f"'{name}' is not a list of strings", request.topic)
    return values


class BrokerService(Service):
    """The environment of the broker process."""

    name = "broker"

    @method("getenv")
    def getenv(self, request: Request) -> Answer:
        """``{names}`` → ``{env}`` of those that are set."""
        return {"env": {name: os.environ[name] for name in _strings(request, "names") if name in os.environ}}

    @method("setenv")
    def setenv(self, request: Request) -> Answer:
        """``{env: {name: value or null}}`` → empty."""
        for name, value in request.field("env", dict).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = str(value)
        return None


class RunatService(Service):
    """Adds to what is run when the initial program has ended."""

    name = "runat"

    @method("push")
    def push(self, request: Request) -> Answer:
        """``{name, commands}`` → empty; each command runs before those pushed earlier."""
        name = request.field("name", str)
        for command in _strings(request, "commands"):
            self.broker.runat.push_shell(name, command, logged=True)
        return None


class ShutdownService(Service):
    """An orderly end of the instance, on rank 0."""

    name = "shutdown"

    @method("start")
    def start(self, request: Request) -> Answer | _Later:
        """``{loglevel}`` → ``{log}`` for each log message until the end (streaming), or empty."""
        if self.held:
            raise FluxError(errno.EINVAL, "shutdown is already in progress")
        try:
            self.broker.state_machine.shut_down()
        except ValueError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return self.hold(request) if request.message.is_streaming else None

    def appended(self, line: bytes) -> None:
        """A new log line: to the client that waits, if it is grave enough for it."""
        for request in list(self.held):
            entry = decode_entry(line)
            if entry.severity <= request.field("loglevel", int, 3):
                severity = SEVERITY_NAMES[entry.severity]
                request.respond({"log": f"{entry.appname}.{severity}[{entry.rank}]: {entry.text}\n"})

    def complete(self) -> bool:
        """Goodbye is reached: end the stream. Whether a client is left that must hear of it first."""
        for request in list(self.held):
            request.finish()
        return bool(self.held)

    def abandoned(self, request: Request) -> None:
        """The client has gone: the instance need not wait for it any more."""
        self.broker.goodbye_check()
