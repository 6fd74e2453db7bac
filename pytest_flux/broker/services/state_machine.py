"""`state-machine`: what state the broker is in, and waiting for it to change."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.broker.state.states import NUMBER
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.state.state_machine import StateMachine
    from pytest_flux.reactor.clock import Clock


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
        # flux-core takes no notice of what it cannot read here.
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
        """systemd is never told: an embedded broker is no system service."""
        return None

    def changed(self) -> None:
        """The state has changed: tell those who wait."""
        for request in list(self.held):
            done = self._answer_wait(request) if request.topic.endswith("wait") else self._answer_monitor(request)
            if done:
                self.release(request)
