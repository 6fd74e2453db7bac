"""The state of the parent, which a broker follows: it joins, runs and shuts down after it."""

from __future__ import annotations

from pytest_flux.broker.state.states import FAILURE, NUMBER, STATES, follow_parent
from pytest_flux.protocol.message import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.state.state_machine import StateMachine


class ParentState:
    """What is known of the parent's state, and the events that it means for ours."""

    def __init__(self, machine: StateMachine, router: Router) -> None:
        self.is_lost = False
        self._machine = machine
        self._router = router
        self._state: str | None = None

    def follow(self) -> None:
        """Ask the parent for its state, and to tell when it changes, up to its shutdown."""
        last = {"final": NUMBER["shutdown"]}
        self._router.rpc("state-machine.monitor", last, self._changed, upstream=True, streaming=True)

    def _changed(self, message: Message) -> None:
        if not message.errnum:
            self._state = STATES[message.json()["state"]]
            self.check()

    def check(self) -> None:
        """Post the event that the parent's state means in our own, if it means any."""
        event = None
        if self.is_lost:
            event = FAILURE.get(self._machine.state)
        elif self._state is not None:
            event = follow_parent(self._machine.state, self._state)
        if event is not None:
            self._machine.post(event)
