"""The broker itself: `broker` (its environment), `attr`, `runat`, `state-machine` and `shutdown`."""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.defaults import BUILTIN
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.broker.state.states import NUMBER
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import SEVERITY_NAMES
from pytest_flux.protocol.stdlog import decode_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.process.runat import Runat
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.state.state_machine import StateMachine
    from pytest_flux.reactor.clock import Clock


class BrokerService(Service):
    """The environment of the broker process."""

    name = "broker"

    @method("getenv")
    def getenv(self, request: Request) -> Answer:
        """``{names}`` → ``{env}`` of those that are set."""
        # As in flux-core, anything but an array counts as empty, and elements that are not strings are ignored.
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

    @method("conf-builtin", roles=ALL)
    def conf_builtin(self, request: Request) -> Answer:
        """``{keys}`` → ``{values}``: paths that are built in. Keys that are not strings are ignored."""
        keys = [key for key in request.field("keys", list) if isinstance(key, str)]
        for key in keys:
            if key not in BUILTIN:
                raise FluxError(errno.EINVAL, f"{key}: invalid key")
        return {"values": {key: BUILTIN[key] for key in keys}}


class RunatService(Service):
    """Adds commands that run when the initial program has ended."""

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
    """The orderly end of an instance, on rank 0. ``check_goodbye`` is called when the waiting client disconnects."""

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
        """Send a new log line to the waiting client, if it is severe enough."""
        for request in list(self.held):
            entry = decode_entry(line)
            if entry.severity <= request.field("loglevel", int, 3):
                severity = SEVERITY_NAMES[entry.severity]
                request.respond({"log": f"{entry.appname}.{severity}[{entry.rank}]: {entry.text}\n"})

    def complete(self) -> bool:
        """Goodbye is reached: end the stream. Returns whether a client must hear of it first."""
        for request in list(self.held):
            request.finish()
        return bool(self.held)

    def abandoned(self, request: Request) -> None:
        """The client has disconnected: the instance need not wait for it."""
        self._check_goodbye()


class AttrService(Service):
    """Reads and updates attributes by flux-core's rules."""

    name = "attr"
    is_module = False

    def __init__(self, router: Router, log: BrokerLog, attributes: Attributes) -> None:
        super().__init__(router, log)
        self._attributes = attributes

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer:
        """``{name}`` → ``{value, flags}``; ENOENT if it is unknown or has no value."""
        name = request.field("name", str)
        value = self._attributes.get(name)
        if value is None:
            raise FluxError(errno.ENOENT)
        return {"value": value, "flags": self._attributes.flags(name) & 1}

    @method("list", roles=ALL)
    def list_names(self, request: Request) -> Answer:
        """→ ``{names}``."""
        return {"names": self._attributes.names()}

    @method("set")
    def set(self, request: Request) -> Answer:
        """``{name, value, force?}`` → empty."""
        name, value = request.field("name", str), request.field("value", str)
        force = request.field("force", bool, False)
        if name == "log-stderr-level" and not force:
            self._log.set_attribute(name, value)
        self._attributes.update(name, value, force=force)
        return None

    @method("rm")
    def remove(self, request: Request) -> Answer:
        """``{name}`` → empty."""
        self._attributes.delete(request.field("name", str))
        return None


class StateMachineService(Service):
    """Answers from the state machine of this broker."""

    name = "state-machine"
    is_module = False

    def __init__(self, router: Router, log: BrokerLog, machine: StateMachine, clock: Clock) -> None:
        super().__init__(router, log)
        self._machine = machine
        self._clock = clock

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer:
        """→ ``{state, duration}``."""
        machine = self._machine
        return {"state": machine.state, "duration": self._clock.monotonic() - machine.since}

    @method("wait", roles=ALL)
    def wait(self, request: Request) -> Answer | _Later:
        """→ empty once the state is run; ENOENT once it is past that."""
        return LATER if self._answer_wait(request) else self.hold(request)

    def _answer_wait(self, request: Request) -> bool:
        number = NUMBER[self._machine.state]
        if number == NUMBER["run"]:
            request.respond()
        elif number > NUMBER["run"]:
            request.error(errno.ENOENT, "broker has surpassed RUN state")
        return number >= NUMBER["run"]

    @method("monitor")
    def monitor(self, request: Request) -> Answer | _Later:
        """``{final?}`` → ``{state: number}`` now and at each change, until ``final`` has been sent."""
        return LATER if self._answer_monitor(request) else self.hold(request)

    def _answer_monitor(self, request: Request) -> bool:
        number = NUMBER[self._machine.state]
        # As in flux-core, anything that cannot be read is ignored.
        payload = request.json() if request.message.payload else {}
        final = payload.get("final")
        if not isinstance(final, int):
            final = NUMBER["exit"]
        if number <= final:
            request.respond({"state": number})
            if not request.message.is_streaming:
                return True
            if number < final:
                return False
        request.finish()
        return True

    @method("post")
    def post(self, request: Request) -> Answer:
        """``{event, error?}``: post an event; never answered."""
        if request.message.wants_response:
            raise FluxError(errno.EPROTO)
        event = request.field("event", str)
        if request.field("error", bool, False):
            self._machine.fail(event)
        else:
            self._machine.post(event)
        return None

    @method("sd-notify")
    def sd_notify(self, request: Request) -> Answer:
        """Do nothing: an embedded broker is not a system service."""
        return None

    def changed(self) -> None:
        """The state has changed: answer those who wait for it."""
        for request in list(self.held):
            done = self._answer_wait(request) if request.topic.endswith("wait") else self._answer_monitor(request)
            if done:
                self.release(request)
