"""The life of a broker: states, events, and the actions on entering each state (flux-core's state_machine.c).

A broker starts (load-builtins, join, config-sync, init), waits for the others (quorum), runs (run), and ends in
reverse (cleanup, shutdown, finalize, goodbye, unload-builtins, exit). States, their numbers and the names of events
are flux-core's, because other brokers, clients and the log see them. The table of transitions is in states.py; this
module holds the actions.

Three decisions shape it:

* Events are posted, never called. An action may post an event at once (rank 0 has no parent: ``parent-none``), or
  when a program ends, a child leaves, a timer fires. Each event is handled in a round of the reactor by itself, so an
  action always finishes before the next transition, and no action sees a half-entered state. An event that the
  present state does not know is ignored, and logged: several sources may report the same cause.
* Ranks keep in step by following, not by commands. A broker asks its parent for its state (``state-machine.monitor``)
  and derives its own events from it: it joins when the parent reaches quorum, runs when the parent runs, shuts down
  when the parent shuts down. A parent waits for its children only in the state shutdown. So an instance starts from
  the root to the leaves and ends from the leaves to the root, and a lost parent looks like one that has failed.
* Every wait has an end. Timers belong to a state and are cancelled when it is left. Cleanup, shutdown and goodbye
  have time-outs; a deadly signal aborts the program of the present phase, and what it skips is never retried.

The exit code is that of the first failure: a program's (rc1, rc2, cleanup, rc3), or 1 if the broker itself failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pytest_flux.broker.state.quorum import Quorum, hosts
from pytest_flux.broker.state.states import FAILURE, NEXT, NUMBER, STATES, follow_parent
from pytest_flux.protocol.duration import format_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.message import Message
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_ERR, LOG_INFO
from pytest_flux.reactor.timers import Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.overlay.overlay import Overlay
    from pytest_flux.broker.ports import Life
    from pytest_flux.broker.process.runat import Runat
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.services.groups import GroupsService
    from pytest_flux.reactor.reactor import Reactor

_TIMES = (
    "broker.quorum-warn",
    "broker.cleanup-timeout",
    "broker.sd-stop-timeout",
    "broker.shutdown-warn",
    "broker.shutdown-timeout",
    "broker.unload-builtins-timeout",
)
_PHASES = {"init": "rc1", "run": "rc2", "cleanup": "cleanup", "finalize": "rc3"}
_GOODBYE_TIMEOUT = 60.0


class StateMachine:
    """Turns events into transitions. Events are handled one by one from the loop, never within each other.

    ValueError, in Flux's words, if an attribute about a state has a bad value.
    """

    def __init__(
        self,
        life: Life,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        log: BrokerLog,
        overlay: Overlay,
        runat: Runat,
        groups: GroupsService,
    ) -> None:
        self._life = life
        self._reactor = reactor
        self._clock = reactor.clock
        self._router = router
        self._attributes = attributes
        self._broker_log = log
        self._overlay = overlay
        self._runat = runat
        self._groups = groups
        self.state = "load-builtins"
        self.since = self._clock.monotonic()
        self.exit_code = 0
        self.greeting = ""
        self.is_online = False
        self._events: deque[str] = deque()
        self._parent_state: str | None = None
        self._parent_is_lost = False
        self._expedite = False
        self._timers: list[Timer] = []
        self._quorum = Quorum(reactor, router, attributes, log, groups, lambda: self.state, self.post)
        for name in _TIMES:
            try:
                attributes.duration(name)
            except ProtocolError:
                raise ValueError(f"Error parsing {name} attribute") from None

    @property
    def admits_children(self) -> bool:
        """Whether a child may still join: not once this broker shuts down."""
        return NUMBER[self.state] < NUMBER["cleanup"]

    # -- events

    def start(self) -> None:
        """Enter the first state."""
        self.since = self._clock.monotonic()
        self._life.load_builtins()

    def post(self, event: str) -> None:
        """Queue an event."""
        self._events.append(event)
        self._reactor.call_soon(self._process)

    def fail(self, event: str) -> None:
        """Queue an event that makes this broker's exit code 1."""
        self.exit_code = 1
        self.post(event)

    def lose_parent(self) -> None:
        """The parent is lost: shut down, whatever the present state is."""
        self._parent_is_lost = True
        self.fail(FAILURE.get(self.state, "parent-fail"))

    # -- the parent's state, which a broker follows to join, run and shut down

    def follow_parent(self) -> None:
        """Ask the parent for its state now and whenever it changes, up to its shutdown."""
        last = {"final": NUMBER["shutdown"]}
        self._router.rpc("state-machine.monitor", last, self._parent_changed, upstream=True, streaming=True)

    def _parent_changed(self, message: Message) -> None:
        if not message.errnum:
            self._parent_state = STATES[message.json()["state"]]
            self._check_parent()

    def _check_parent(self) -> None:
        """Post the event that the parent's state means in ours, if it means any."""
        event = None
        if self._parent_is_lost:
            event = FAILURE.get(self.state)
        elif self._parent_state is not None:
            event = follow_parent(self.state, self._parent_state)
        if event is not None:
            self.post(event)

    # -- states

    def _process(self) -> None:
        event = self._events.popleft()
        following = NEXT.get((self.state, event), self.state)
        if following == self.state:
            self._log(LOG_DEBUG, f"{event}: ignored in {self.state}")
            return
        now = self._clock.monotonic()
        self._log(LOG_INFO, f"{event}: {self.state}->{following} {format_duration(now - self.since)}")
        self.state, self.since = following, now
        while self._timers:
            self._timers.pop().cancel()
        getattr(self, "_enter_" + following.replace("-", "_"))()
        self._life.state_changed(following)

    def _after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back after ``delay`` seconds if the state is still the same by then; never for "none"."""
        if delay >= 0:
            self._timers.append(self._reactor.call_later(delay, callback))

    # -- actions

    def _enter_join(self) -> None:
        if self._router.rank == 0:
            self.post("parent-none")
        else:
            self._check_parent()

    def _enter_config_sync(self) -> None:
        if self._router.rank == 0:
            self.post("sync-none")
        else:
            self._life.follow_config(self.post)

    def _enter_init(self) -> None:
        self.is_online = True
        if not self._runat.start("rc1", self._rc1_done):
            self.post("rc1-none")

    def _rc1_done(self, code: int) -> None:
        if code == 0:
            self.post("rc1-success")
        elif "broker.recovery-mode" in self._attributes:
            self.post("rc1-ignorefail")
        else:
            self.exit_code = self._norestart() or code
            self.post("rc1-fail")

    def _norestart(self) -> int:
        """The exit code that tells systemd not to restart the broker; 0 if none is set."""
        value = self._attributes.get("broker.exit-norestart") or ""
        return int(value) if value.isdigit() else 0

    def _enter_quorum(self) -> None:
        self._groups.join("broker.online", self._joined)
        if self._router.rank > 0:
            self._check_parent()
        else:
            self._quorum.gather()

    def _joined(self, message: Message) -> None:
        if message.errnum:
            self.post("quorum-fail")

    def _enter_run(self) -> None:
        if self.greeting:
            print(self.greeting, end="", flush=True)
        if self._runat.start("rc2", lambda code: self._finished("rc2", code)):
            return
        if self._router.rank > 0:
            self._check_parent()
        else:
            self.post("rc2-none")

    def _finished(self, phase: str, code: int) -> None:
        self.exit_code = self.exit_code or code
        self.post(f"{phase}-{'fail' if code else 'success'}")

    def _enter_cleanup(self) -> None:
        settle = self._life.settle
        if not self._runat.start("cleanup", lambda code: settle(lambda: self._finished("cleanup", code))):
            settle(lambda: self.post("cleanup-none"))
        elif self._expedite:
            timeout = self._attributes.duration("broker.cleanup-timeout")
            self._after(timeout, self._abort_cleanup)

    def _abort_cleanup(self) -> None:
        self._runat.abort("cleanup")

    def _enter_shutdown(self) -> None:
        self._after(self._attributes.duration("broker.shutdown-warn"), self._warn_shutdown)
        if self._router.rank == 0:
            self._after(self._attributes.duration("broker.shutdown-timeout"), self._shutdown_timeout)
        if self._overlay.is_childless:
            self.post("children-none")

    def check_children(self) -> None:
        """A child has changed: continue the shutdown once no child subtree is online."""
        if self.state == "shutdown" and self._overlay.is_childless:
            self.post("children-complete")

    def _warn_shutdown(self) -> None:
        online = self._overlay.online
        names = f"{hosts(self._attributes, online)} (rank {encode_idset(online)})"
        self._log(LOG_ERR, f"shutdown delayed: waiting for {len(online)} peers: {names}")
        self._after(self._attributes.duration("broker.shutdown-warn"), self._warn_shutdown)

    def _shutdown_timeout(self) -> None:
        self._log(LOG_ERR, "shutdown timeout")
        self.post("children-complete")

    def _enter_finalize(self) -> None:
        if not self._runat.start("rc3", lambda code: self._finished("rc3", code)):
            self.post("rc3-none")

    def _enter_goodbye(self) -> None:
        self._after(_GOODBYE_TIMEOUT, self._goodbye_timeout)
        if self._router.rank > 0:
            self._overlay.part(lambda: self.post("goodbye"))

    def _goodbye_timeout(self) -> None:
        self._log(LOG_ERR, f"goodbye timeout after {_GOODBYE_TIMEOUT:.1f}s")
        self.post("goodbye")

    def _enter_unload_builtins(self) -> None:
        self._life.unload_builtins(lambda: self.post("builtins-done"))

    def _enter_exit(self) -> None:
        self._reactor.stop()

    # -- from outside

    def kill(self, signum: int) -> None:
        """A deadly signal: abort the work of the present state."""
        self._expedite = True
        if self.state in _PHASES:
            if not self._runat.abort(_PHASES[self.state]) and self.state == "run":
                self.post("shutdown")
        elif self.state in FAILURE:
            self.post(FAILURE[self.state])
        else:
            self._log(LOG_INFO, f"ignored signal {signum} in {self.state}")

    def shut_down(self) -> None:
        """Begin an orderly shutdown of the instance. ValueError, in Flux's words, if that is impossible."""
        if self.state != "run":
            raise ValueError(f"shutdown cannot be initiated in state {self.state}")
        if self._router.rank != 0:
            raise ValueError("shutdown may only be initiated on rank 0")
        self.exit_code = self._norestart() or self.exit_code
        if not self._runat.abort("rc2"):
            self.post("shutdown")

    def _log(self, severity: int, text: str) -> None:
        self._broker_log.write(severity, text)
