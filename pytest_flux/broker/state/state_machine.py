"""The life of a broker: events, and what is done on entering each state (flux-core's state_machine.c)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from pytest_flux.broker.state.parent_state import ParentState
from pytest_flux.broker.state.quorum import Quorum, hosts
from pytest_flux.broker.state.states import FAILURE, NEXT, NUMBER
from pytest_flux.protocol.duration import format_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.reactor import Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker

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
_ERR, _INFO, _DEBUG = 3, 6, 7


class StateMachine:
    """Events in, transitions out. Events are handled one by one from the loop, never within each other.

    ValueError, in Flux's words, where an attribute about a state has a bad value.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.state = "load-builtins"
        self.since = time.monotonic()
        self._events: deque[str] = deque()
        self.parent = ParentState(self, broker.router)
        self._expedite = False
        self._timers: list[Timer] = []
        self._quorum = Quorum(broker)
        for name in _TIMES:
            try:
                broker.duration(name)
            except ProtocolError:
                raise ValueError(f"Error parsing {name} attribute") from None

    @property
    def admits_children(self) -> bool:
        """Whether a child may still join: not once this broker is on its way down."""
        return NUMBER[self.state] < NUMBER["cleanup"]

    # -- events

    def start(self) -> None:
        """Enter the first state."""
        self.since = time.monotonic()
        self._broker.enter_load_builtins()

    def post(self, event: str) -> None:
        """Queue an event."""
        self._events.append(event)
        self._broker.reactor.call_soon(self._process)

    def fail(self, event: str) -> None:
        """Queue an event that makes this broker's exit code 1."""
        self._broker.exit_code = 1
        self.post(event)

    def lose_parent(self) -> None:
        """The parent is gone: whatever this broker does, it comes to its end."""
        self.parent.is_lost = True
        self.fail(FAILURE.get(self.state, "parent-fail"))

    def _process(self) -> None:
        event = self._events.popleft()
        following = NEXT.get((self.state, event), self.state)
        if following == self.state:
            self._log(_DEBUG, f"{event}: ignored in {self.state}")
            return
        now = time.monotonic()
        self._log(_INFO, f"{event}: {self.state}->{following} {format_duration(now - self.since)}")
        self.state, self.since = following, now
        while self._timers:
            self._timers.pop().cancel()
        getattr(self, "_enter_" + following.replace("-", "_"))()
        self._broker.state_changed(following)

    def _after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back after ``delay`` seconds if the state is still the same by then; never for "none"."""
        if delay >= 0:
            self._timers.append(self._broker.reactor.call_later(delay, callback))

    # -- actions

    def _enter_join(self) -> None:
        if self._broker.rank == 0:
            self.post("parent-none")
        else:
            self.parent.check()

    def _enter_config_sync(self) -> None:
        if self._broker.rank == 0:
            self.post("sync-none")
        else:
            self._broker.follow_config(self.post)

    def _enter_init(self) -> None:
        self._broker.is_online = True
        if not self._broker.runat.start("rc1", self._rc1_done):
            self.post("rc1-none")

    def _rc1_done(self, code: int) -> None:
        if code == 0:
            self.post("rc1-success")
        elif "broker.recovery-mode" in self._broker.attributes:
            self.post("rc1-ignorefail")
        else:
            self._broker.exit_code = self._norestart() or code
            self.post("rc1-fail")

    def _norestart(self) -> int:
        """The exit code that tells systemd not to start us again, 0 if it is not asked for."""
        value = self._broker.attributes.get("broker.exit-norestart") or ""
        return int(value) if value.isdigit() else 0

    def _enter_quorum(self) -> None:
        self._broker.groups.join("broker.online", self._joined)
        if self._broker.rank > 0:
            self.parent.check()
        else:
            self._quorum.gather()

    def _joined(self, message: Message) -> None:
        if message.errnum:
            self.post("quorum-fail")

    def _enter_run(self) -> None:
        if self._broker.greeting:
            print(self._broker.greeting, end="", flush=True)
        if self._broker.runat.start("rc2", lambda code: self._finished("rc2", code)):
            return
        if self._broker.rank > 0:
            self.parent.check()
        else:
            self.post("rc2-none")

    def _finished(self, phase: str, code: int) -> None:
        self._broker.exit_code = self._broker.exit_code or code
        self.post(f"{phase}-{'fail' if code else 'success'}")

    def _enter_cleanup(self) -> None:
        broker = self._broker
        if not broker.runat.start("cleanup", lambda code: broker.settle(lambda: self._finished("cleanup", code))):
            broker.settle(lambda: self.post("cleanup-none"))
        elif self._expedite:
            timeout = self._broker.duration("broker.cleanup-timeout")
            self._after(timeout, self._abort_cleanup)

    def _abort_cleanup(self) -> None:
        self._broker.runat.abort("cleanup")

    def _enter_shutdown(self) -> None:
        self._after(self._broker.duration("broker.shutdown-warn"), self._warn_shutdown)
        if self._broker.rank == 0:
            self._after(self._broker.duration("broker.shutdown-timeout"), self._shutdown_timeout)
        if self._broker.overlay.is_childless:
            self.post("children-none")

    def check_children(self) -> None:
        """A child has changed: go on with shutting down once no child subtree is online."""
        if self.state == "shutdown" and self._broker.overlay.is_childless:
            self.post("children-complete")

    def _warn_shutdown(self) -> None:
        online = self._broker.overlay.online
        names = f"{hosts(self._broker, online)} (rank {encode_idset(online)})"
        self._log(_ERR, f"shutdown delayed: waiting for {len(online)} peers: {names}")
        self._after(self._broker.duration("broker.shutdown-warn"), self._warn_shutdown)

    def _shutdown_timeout(self) -> None:
        self._log(_ERR, "shutdown timeout")
        self.post("children-complete")

    def _enter_finalize(self) -> None:
        if not self._broker.runat.start("rc3", lambda code: self._finished("rc3", code)):
            self.post("rc3-none")

    def _enter_goodbye(self) -> None:
        self._after(_GOODBYE_TIMEOUT, self._goodbye_timeout)
        if self._broker.rank > 0:
            self._broker.overlay.part(lambda: self.post("goodbye"))

    def _goodbye_timeout(self) -> None:
        self._log(_ERR, f"goodbye timeout after {_GOODBYE_TIMEOUT:.1f}s")
        self.post("goodbye")

    def _enter_unload_builtins(self) -> None:
        self._broker.unload_builtins(lambda: self.post("builtins-done"))

    def _enter_exit(self) -> None:
        self._broker.reactor.stop()

    # -- from outside

    def kill(self, signum: int) -> None:
        """A deadly signal: abort whatever this state is doing."""
        self._expedite = True
        if self.state in _PHASES:
            if not self._broker.runat.abort(_PHASES[self.state]) and self.state == "run":
                self.post("shutdown")
        elif self.state in FAILURE:
            self.post(FAILURE[self.state])
        else:
            self._log(_INFO, f"ignored signal {signum} in {self.state}")

    def shut_down(self) -> None:
        """Begin an orderly shutdown of the instance. ValueError, with Flux's words, where that cannot be."""
        if self.state != "run":
            raise ValueError(f"shutdown cannot be initiated in state {self.state}")
        if self._broker.rank != 0:
            raise ValueError("shutdown may only be initiated on rank 0")
        self._broker.exit_code = self._norestart() or self._broker.exit_code
        if not self._broker.runat.abort("rc2"):
            self.post("shutdown")

    def _log(self, severity: int, text: str) -> None:
        self._broker.log.write(severity, text)
