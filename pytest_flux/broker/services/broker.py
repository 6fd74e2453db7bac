"""`broker`, `runat` and `shutdown`: the broker as a process, what it runs, and its end."""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.service import Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import SEVERITY_NAMES
from pytest_flux.protocol.stdlog import decode_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.process.runat import Runat
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.state.state_machine import StateMachine


class BrokerService(Service):
    """The environment of the broker process."""

    name = "broker"

    @method("getenv")
    def getenv(self, request: Request) -> Answer:
        """``{names}`` → ``{env}`` of those that are set."""
        # flux-core reads an array as far as it can: what is none has no names, what is no string names nothing.
        names = request.json().get("names")
        if names is None:
            raise ProtocolError("'names' is missing", request.topic)
        known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return {"env": {name: os.environ[name] for name in known if name in os.environ}}

    @method("setenv")
    def setenv(self, request: Request) -> Answer:
        """``{env: {name: value or null}}`` → empty."""
        env = request.field("env", dict)
        for name, value in env.items():
            if not name or "=" in name or not isinstance(value, (str, type(None))):
                raise ProtocolError(f"'{name}' cannot be set to {value!r}", request.topic)
        for name, value in env.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        return None


class RunatService(Service):
    """Adds to what is run when the initial program has ended."""

    name = "runat"
    is_module = False

    def __init__(self, router: Router, log: BrokerLog, runat: Runat) -> None:
        super().__init__(router, log)
        self._runat = runat

    @method("push")
    def push(self, request: Request) -> Answer:
        """``{name, commands}`` → empty; each command runs before those pushed earlier."""
        name = request.field("name", str)
        commands = request.field("commands", list)
        if not commands:
            raise FluxError(errno.EPROTO, "commands array is empty")
        for command in commands:
            if not isinstance(command, str) or not command:
                raise FluxError(errno.EPROTO, "cannot push an empty command line")
            self._runat.push_shell(name, command, logged=True)
        return None


class ShutdownService(Service):
    """An orderly end of the instance, on rank 0. ``check_goodbye`` is called when the client that waits has gone."""

    name = "shutdown"
    is_module = False

    def __init__(
        self, router: Router, log: BrokerLog, state_machine: StateMachine, check_goodbye: Callable[[], None]
    ) -> None:
        super().__init__(router, log)
        self._state_machine = state_machine
        self._check_goodbye = check_goodbye

    @method("start")
    def start(self, request: Request) -> Answer | _Later:
        """``{loglevel}`` → ``{log}`` for each log message until the end (streaming), or empty."""
        if self.held:
            raise FluxError(errno.EINVAL, "shutdown is already in progress")
        try:
            self._state_machine.shut_down()
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
        self._check_goodbye()
