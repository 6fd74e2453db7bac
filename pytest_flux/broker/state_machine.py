"""The life of a broker: states, events, and what is done on entering each state (flux-core's state_machine.c)."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from pytest_flux.protocol.duration import format_duration
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.reactor import Timer

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker

STATES = (
    "load-builtins",
    "join",
    "config-sync",
    "init",
    "quorum",
    "run",
    "cleanup",
    "shutdown",
    "finalize",
    "goodbye",
    "unload-builtins",
    "exit",
)
"""In the order of flux-core's numbers, which `state-machine.monitor` sends."""

NUMBER = {name: number for number, name in enumerate(STATES)}

NEXT = {
    ("load-builtins", "builtins-success"): "join",
    ("load-builtins", "builtins-fail"): "unload-builtins",
    ("join", "parent-ready"): "config-sync",
    ("join", "parent-none"): "config-sync",
    ("join", "parent-fail"): "shutdown",
    ("config-sync", "sync-success"): "init",
    ("config-sync", "sync-none"): "init",
    ("config-sync", "sync-fail"): "shutdown",
    ("init", "rc1-success"): "quorum",
    ("init", "rc1-none"): "quorum",
    ("init", "rc1-ignorefail"): "quorum",
    ("init", "rc1-fail"): "shutdown",
    ("init", "panic"): "shutdown",
    ("quorum", "quorum-full"): "run",
    ("quorum", "quorum-fail"): "shutdown",
    ("quorum", "panic"): "shutdown",
    ("run", "rc2-success"): "cleanup",
    ("run", "rc2-fail"): "cleanup",
    ("run", "panic"): "shutdown",
    ("run", "shutdown"): "cleanup",
    ("run", "parent-fail"): "cleanup",
    ("run", "rc2-none"): "run",
    ("cleanup", "cleanup-success"): "shutdown",
    ("cleanup", "cleanup-none"): "shutdown",
    ("cleanup", "cleanup-fail"): "shutdown",
    ("shutdown", "children-complete"): "finalize",
    ("shutdown", "children-none"): "finalize",
    ("finalize", "rc3-success"): "goodbye",
    ("finalize", "rc3-none"): "goodbye",
    ("finalize", "rc3-fail"): "goodbye",
    ("goodbye", "goodbye"): "unload-builtins",
    ("unload-builtins", "builtins-done"): "exit",
    ("unload-builtins", "builtins-unload-fail"): "exit",
}

_GOODBYE_TIMEOUT = 60.0
_NOT_YET_JOINABLE = frozenset(STATES[:4])
_WAITING_PARENT = frozenset(("load-builtins", "join", "config-sync", "quorum"))
_ERR, _INFO, _DEBUG = 3, 6, 7


class StateMachine:
    """Events in, transitions out. Events are handled one by one from the loop, never within each other."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.state = "load-builtins"
        self.since = time.monotonic()
        self._events: deque[str] = deque()
        self._parent_state: str | None = None
        self._parent_failed = False
        self._expedite = False
        self._online: set[int] = set()
        self._warned = False
        self._timers: dict[str, Timer] = {}
        self.quorum = self._configured_quorum()

    def _configured_quorum(self) -> int:
        broker = self._broker
        value = broker.attributes.setdefault("broker.quorum", str(broker.size)) or ""
        # Older versions took a set of ranks; flux-core still translates the two that were in use.
        if value in ("0", f"0-{broker.size - 1}"):
            quorum = 1 if value == "0" else broker.size
            if broker.rank == 0:
                broker.log.write(_ERR, f"warning: broker.quorum is now a size - assuming {quorum}")
            return quorum
        if not value.isdigit() or not 1 <= int(value) <= broker.size:
            raise ValueError("Error parsing broker.quorum attribute")
        return int(value)

    @property
    def admits_children(self) -> bool:
        """Whether a child may still join: not once this broker is on its way down."""
        return NUMBER[self.state] < NUMBER["cleanup"]

    # -- events

    def start(self) -> None:
        """Enter the first state."""
        self._broker.enter_load_builtins()

    def post(self, event: str) -> None:
        """Queue an event."""
        self._events.append(event)
        self._broker.reactor.call_soon(self._process)

    def fail(self, event: str) -> None:
        """Queue an event that makes this broker's exit code 1."""
        self._broker.exit_code = 1
        self._parent_failed = self._parent_failed or event == "parent-fail"
        self.post(event)

    def _process(self) -> None:
        event = self._events.popleft()
        following = NEXT.get((self.state, event), self.state)
        if following == self.state:
            self._broker.log.write(_DEBUG, f"{event}: ignored in {self.state}")
            return
        now = time.monotonic()
        spent = format_duration(now - self.since)
        self._broker.log.write(_INFO, f"{event}: {self.state}->{following} {spent}")
        self.state, self.since = following, now
        for timer in self._timers.values():
            timer.cancel()
        getattr(self, "_enter_" + following.replace("-", "_"))()
        self._broker.state_changed(following)

    def _after(self, name: str, delay: float, callback: str) -> None:
        if delay >= 0:
            self._timers[name] = self._broker.reactor.call_later(delay, getattr(self, callback))

    # -- actions

    def _enter_join(self) -> None:
        if self._broker.rank == 0:
            self.post("parent-none")
        else:
            self._check_parent()

    def _enter_config_sync(self) -> None:
        if self._broker.rank == 0:
            self.post("sync-none")
        else:
            self._broker.router.rpc("config.get", None, self._synced, upstream=True)

    def _synced(self, message: Message) -> None:
        if message.errnum:
            self.post("sync-fail")
            return
        self._broker.take_config(message.json())
        self.post("sync-success")

    def _enter_init(self) -> None:
        self._broker.is_online = True
        if not self._broker.runat.start("rc1", self._rc1_done):
            self.post("rc1-none")

    def _rc1_done(self, code: int) -> None:
        if code == 0:
            self.post("rc1-success")
        elif self._broker.attributes.get("broker.recovery-mode") is not None:
            self.post("rc1-ignorefail")
        else:
            self._broker.exit_code = self._norestart() or code
            self.post("rc1-fail")

    def _norestart(self) -> int:
        value = self._broker.attributes.get("broker.exit-norestart") or ""
        return int(value) if value.isdigit() else 0

    def _enter_quorum(self) -> None:
        self._broker.groups.join("broker.online", self._joined)
        if self._broker.rank > 0:
            self._check_parent()
        else:
            self._broker.groups.watch("broker.online", self._online_changed)
            self._arm_quorum_warning()

    def _joined(self, message: Message) -> None:
        if message.errnum:
            self.post("quorum-fail")

    def _online_changed(self, members: str) -> None:
        lost, self._online = self._online, set(decode_idset(members))
        lost = lost - self._online
        reached = len(self._online) >= self.quorum
        if self.state == "quorum" and members:
            self._broker.log.write(_INFO, f"online: {self._hosts(self._online)} (ranks {members})")
        if reached and self.state == "quorum":
            self.post("quorum-full")
            if self._warned:
                self._broker.log.write(_ERR, "quorum reached")
                self._warned = False
        if lost and self.state in ("run", "cleanup"):
            self._broker.log.write(_ERR, f"dead to Flux: {self._hosts(lost)} (rank {encode_idset(lost)})")

    def _hosts(self, ranks: set[int]) -> str:
        return encode_hostlist(self._broker.host_of(rank) for rank in sorted(ranks))

    def _warn_quorum(self) -> None:
        missing = set(range(self._broker.size)) - self._online
        text = f"quorum delayed: waiting for {self._hosts(missing)} (rank {encode_idset(missing)})"
        self._broker.log.write(_ERR, text)
        self._warned = True
        self._arm_quorum_warning()

    def _arm_quorum_warning(self) -> None:
        period = self._broker.duration("broker.quorum-warn")
        if period > 0:
            self._after("quorum", period, "_warn_quorum")

    def _enter_run(self) -> None:
        broker = self._broker
        if not broker.runat.start("rc2", self._rc2_done):
            if broker.rank > 0:
                self._check_parent()
            else:
                self.post("rc2-none")

    def _rc2_done(self, code: int) -> None:
        self._finished("rc2", code)

    def _finished(self, phase: str, code: int) -> None:
        if self._broker.exit_code == 0 and code != 0:
            self._broker.exit_code = code
        self.post(f"{phase}-{'fail' if code else 'success'}")

    def _enter_cleanup(self) -> None:
        if not self._broker.runat.start("cleanup", lambda code: self._finished("cleanup", code)):
            self.post("cleanup-none")
        elif self._expedite:
            self._after("cleanup", self._broker.duration("broker.cleanup-timeout"), "_abort_cleanup")

    def _abort_cleanup(self) -> None:
        self._broker.runat.abort("cleanup")

    def _enter_shutdown(self) -> None:
        self._after("shutdown-warn", self._broker.duration("broker.shutdown-warn"), "_warn_shutdown")
        if self._broker.rank == 0:
            self._after("shutdown", self._broker.duration("broker.shutdown-timeout"), "_shutdown_timeout")
        self.check_children()

    def check_children(self) -> None:
        """Go on with shutting down once no child subtree is online."""
        overlay = self._broker.overlay
        if self.state == "shutdown" and overlay.is_childless:
            self.post("children-complete" if overlay.children else "children-none")

    def _warn_shutdown(self) -> None:
        online = {
            rank for rank, child in self._broker.overlay.children.items() if child.connection is not None
        }
        text = f"{len(online)} peers: {self._hosts(online)} (rank {encode_idset(online)})"
        self._broker.log.write(_ERR, f"shutdown delayed: waiting for {text}")
        self._after("shutdown-warn", self._broker.duration("broker.shutdown-warn"), "_warn_shutdown")

    def _shutdown_timeout(self) -> None:
        self._broker.log.write(_ERR, "shutdown timeout")
        self.post("children-complete")

    def _enter_finalize(self) -> None:
        if not self._broker.runat.start("rc3", lambda code: self._finished("rc3", code)):
            self.post("rc3-none")

    def _enter_goodbye(self) -> None:
        self._after("goodbye", _GOODBYE_TIMEOUT, "_goodbye_timeout")
        if self._broker.rank > 0:
            self._broker.overlay.part()
            self._broker.router.rpc("overlay.goodbye", None, lambda _: self.post("goodbye"), upstream=True)

    def _goodbye_timeout(self) -> None:
        self._broker.log.write(_ERR, f"goodbye timeout after {_GOODBYE_TIMEOUT:.1f}s")
        self.post("goodbye")

    def _enter_unload_builtins(self) -> None:
        self._broker.unload_builtins()
        self.post("builtins-done")

    def _enter_exit(self) -> None:
        self._broker.reactor.stop()

    # -- the parent's state

    def monitor_parent(self) -> None:
        """Follow the parent's state, up to its shutdown."""
        self._broker.router.rpc(
            "state-machine.monitor",
            {"final": NUMBER["shutdown"]},
            self._parent_changed,
            upstream=True,
            streaming=True,
        )

    def _parent_changed(self, message: Message) -> None:
        if not message.errnum:
            self._parent_state = STATES[message.json()["state"]]
            self._check_parent()

    def _check_parent(self) -> None:
        parent = self._parent_state
        if self.state == "join":
            self._on_parent(parent, _NOT_YET_JOINABLE, ("quorum", "run"), "parent-ready", "parent-fail")
        elif self.state == "quorum":
            self._on_parent(parent, _WAITING_PARENT, ("init", "run"), "quorum-full", "quorum-fail")
        elif self.state == "run" and self._broker.rank > 0:
            waiting = frozenset(STATES[: NUMBER["shutdown"]])
            self._on_parent(parent, waiting, ("shutdown",), "shutdown", "parent-fail")

    def _on_parent(
        self, parent: str | None, waiting: frozenset[str], ready: tuple[str, ...], success: str, failure: str
    ) -> None:
        if self._parent_failed:
            self.post(failure)
        elif parent in ready:
            self.post(success)
        elif parent is not None and parent not in waiting:
            self.post(failure)

    # -- from outside

    def kill(self, signum: int) -> None:
        """A deadly signal: abort whatever this state is doing."""
        self._expedite = True
        failures = {"join": "parent-fail", "config-sync": "sync-fail", "quorum": "quorum-fail"}
        phases = {"init": "rc1", "run": "rc2", "cleanup": "cleanup", "finalize": "rc3"}
        if self.state in failures:
            self.post(failures[self.state])
        elif self.state in phases:
            if not self._broker.runat.abort(phases[self.state]) and self.state == "run":
                self.post("shutdown")
        else:
            self._broker.log.write(_INFO, f"ignored signal {signum} in {self.state}")

    def shut_down(self) -> None:
        """Begin an orderly shutdown of the instance. ValueError, with Flux's words, where that cannot be."""
        if self.state != "run":
            raise ValueError(f"shutdown cannot be initiated in state {self.state}")
        if self._broker.rank != 0:
            raise ValueError("shutdown may only be initiated on rank 0")
        self._broker.exit_code = self._norestart() or self._broker.exit_code
        if not self._broker.runat.abort("rc2"):
            self.post("shutdown")
