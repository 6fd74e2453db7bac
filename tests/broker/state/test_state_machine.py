"""The state machine on a real reactor, with what it asks of the broker played by the test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.defaults import ATTRIBUTES
from pytest_flux.broker.log import BrokerLog
from pytest_flux.broker.overlay import tbon
from pytest_flux.broker.overlay.overlay import Overlay
from pytest_flux.broker.overlay.peers import FULL, LOST
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.broker.process.runat import Runat
from pytest_flux.broker.router import Router
from pytest_flux.broker.services.groups import GroupsService
from pytest_flux.broker.state.state_machine import StateMachine
from pytest_flux.broker.state.states import NUMBER, STATES
from pytest_flux.protocol.message import Message, encode_json
from pytest_flux.protocol.stdlog import decode_entry
from pytest_flux.reactor.reactor import Reactor

if TYPE_CHECKING:
    from pytest_flux.broker.ports import Life

TIMEOUT = 30.0
ALONE = [state for state in STATES if state != "load-builtins"]
"""The states that a broker enters, in a life without failures."""


class Played:
    """A broker's life as its state machine needs it: everything succeeds at once, unless the test sets otherwise."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.calls: list[str] = []
        self.on_state: dict[str, Callable[[], None]] = {}
        self.builtins = "builtins-success"
        self.config = "sync-success"
        self.says_goodbye = True
        self.machine: StateMachine

    def load_builtins(self) -> None:
        self.calls.append("load")
        self.machine.post(self.builtins)

    def follow_config(self, post: Callable[[str], None]) -> None:
        self.calls.append("config")
        post(self.config)

    def settle(self, done: Callable[[], None]) -> None:
        self.calls.append("settle")
        done()

    def unload_builtins(self, done: Callable[[], None]) -> None:
        self.calls.append("unload")
        done()

    def state_changed(self, state: str) -> None:
        self.states.append(state)
        if state == "goodbye" and self.says_goodbye:
            self.machine.post("goodbye")
        action = self.on_state.get(state)
        if action is not None:
            action()


class Rig:
    """A state machine of one rank, and everything around it but the sockets."""

    def __init__(self, rundir: Path, rank: int = 0, size: int = 1, settings: dict[str, str] | None = None) -> None:
        self.reactor = Reactor()
        self.attributes = Attributes()
        self.attributes.set("hostname", "vm")
        self.attributes.set("rundir", str(rundir))
        quiet = {"log-critical-level": "-1", "log-stderr-level": "-1"}
        for name, value in {**quiet, **ATTRIBUTES, **(settings or {})}.items():
            self.attributes.set(name, value)
        tbon.configure(self.attributes, {})
        self.log = BrokerLog(self.attributes, clock=self.reactor.clock)
        self.log.initialize(rank, lambda _: None)
        self.router = Router("me", rank, Topology("kary:2", size))
        self.parent: list[Message] = []
        if rank > 0:
            self.router.peers[(rank - 1) // 2] = self.parent.append
        self.groups = GroupsService(self.router, self.log)
        if rank == 0:
            self.router.add_service("groups", self.groups.receive)
        self.overlay = Overlay(
            self.reactor,
            self.router,
            self.attributes,
            self.log,
            admits_children=lambda: True,
            parent_lost=lambda: None,
        )
        self.runat = Runat(self.reactor, self.attributes, self.log, lambda: {"PATH": "/usr/bin:/bin"})
        self.played = Played()
        life: Life = self.played
        self.machine = self.played.machine = StateMachine(
            life, self.reactor, self.router, self.attributes, self.log, self.overlay, self.runat, self.groups
        )
        self.overlay.on_change.append(lambda _: self.machine.check_children())

    def run(self, until: str = "exit") -> None:
        """Run until a state is entered."""
        self.played.on_state.setdefault(until, self.reactor.stop)
        late = self.reactor.call_later(TIMEOUT, lambda: pytest.fail(f"never in {until}: {self.played.states}"))
        self.machine.start()
        self.reactor.run()
        late.cancel()

    def settle(self) -> None:
        """Run what is due now, with all that follows from it."""
        for _ in range(20):
            self.reactor.call_soon(self.reactor.stop)
            self.reactor.run()

    def follow(self, state: str) -> None:
        """Answer as the parent, which has entered ``state``."""
        request = next(message for message in self.parent if message.topic == "state-machine.monitor")
        response = request.copy().response(encode_json({"state": NUMBER[state]}))
        self.router.respond(response)
        self.settle()

    def texts(self) -> list[str]:
        return [decode_entry(line).text for line in self.log.lines()]

    def close(self) -> None:
        self.runat.destroy()
        self.overlay.close()
        self.reactor.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(rank: int = 0, size: int = 1, settings: dict[str, str] | None = None) -> Rig:
        rigs.append(Rig(tmp_path, rank, size, settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def test_a_life_without_programs_ends_when_it_is_shut_down(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.played.on_state["run"] = rig.machine.shut_down
    rig.run()
    assert rig.played.states == ALONE
    assert rig.played.calls == ["load", "settle", "unload"]
    assert rig.machine.exit_code == 0


def test_it_runs_until_somebody_ends_it(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.run(until="run")
    rig.settle()
    assert rig.machine.state == "run"
    assert rig.machine.is_online


def test_the_initial_program_ends_the_instance_with_its_exit_code(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.runat.push("rc2", ["sh", "-c", "exit 3"], logged=True)
    rig.run()
    assert rig.played.states == ALONE
    assert rig.machine.exit_code == 3


def test_a_failing_rc1_leads_to_shutdown(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.runat.push("rc1", ["false"], logged=True)
    rig.run()
    assert rig.played.states == ["join", "config-sync", "init", *STATES[NUMBER["shutdown"] :]]
    assert rig.machine.exit_code == 1


def test_a_failing_rc1_is_ignored_in_recovery_mode(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.attributes.set("broker.recovery-mode", None)
    rig.runat.push("rc1", ["false"], logged=True)
    rig.played.on_state["run"] = rig.machine.shut_down
    rig.run()
    assert rig.played.states == ALONE
    assert rig.machine.exit_code == 0


def test_the_first_failure_is_the_exit_code(make: Callable[..., Rig]) -> None:
    rig = make()
    for phase, code in (("rc2", 0), ("cleanup", 4), ("rc3", 5)):
        rig.runat.push(phase, ["sh", "-c", f"exit {code}"], logged=True)
    rig.run()
    assert rig.machine.exit_code == 4


def test_builtins_that_cannot_be_loaded(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.played.builtins = "builtins-fail"
    rig.run()
    assert rig.played.states == ["unload-builtins", "exit"]


def test_an_event_that_does_not_fit_is_ignored(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.run(until="run")
    rig.machine.post("children-none")
    rig.settle()
    assert rig.machine.state == "run"
    assert "children-none: ignored in run" in rig.texts()


def test_a_deadly_signal_hangs_up_the_initial_program(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.runat.push("rc2", ["sleep", "1000"], logged=True)
    rig.played.on_state["run"] = lambda: rig.machine.kill(signal.SIGTERM)
    rig.run()
    assert rig.played.states == ALONE
    assert rig.machine.exit_code == 128 + signal.SIGHUP


def test_shutdown_waits_for_children(make: Callable[..., Rig]) -> None:
    rig = make(size=2, settings={"broker.quorum": "1"})
    child = rig.overlay.children[1]
    rig.run(until="run")
    rig.overlay.set_status(child, FULL)
    rig.machine.shut_down()
    rig.settle()
    assert rig.machine.state == "shutdown"
    assert not rig.machine.admits_children
    rig.overlay.set_status(child, LOST)
    rig.settle()
    assert rig.played.states[-4:] == ["finalize", "goodbye", "unload-builtins", "exit"]


def test_rank_0_stays_until_the_client_that_ended_it_knows(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.played.says_goodbye = False
    rig.run(until="run")
    rig.machine.shut_down()
    rig.settle()
    assert rig.machine.state == "goodbye"


def test_shutdown_is_for_rank_0_and_for_once(make: Callable[..., Rig]) -> None:
    rig = make()
    with pytest.raises(ValueError, match="shutdown cannot be initiated in state load-builtins"):
        rig.machine.shut_down()
    rig.run(until="run")
    rig.router.rank = 1
    with pytest.raises(ValueError, match="shutdown may only be initiated on rank 0"):
        rig.machine.shut_down()


def test_a_leaf_follows_its_parent(make: Callable[..., Rig]) -> None:
    rig = make(rank=1, size=2)
    rig.run(until="join")
    rig.machine.follow_parent()
    for state, mine in (
        ("load-builtins", "join"),
        ("init", "join"),
        ("quorum", "quorum"),
        ("run", "run"),
        ("cleanup", "run"),
        ("shutdown", "exit"),
    ):
        rig.follow(state)
        assert rig.machine.state == mine
    assert rig.played.calls == ["load", "config", "settle", "unload"]


@pytest.mark.parametrize(
    ("parent", "last"),
    [("load-builtins", "join"), ("quorum", "quorum"), ("run", "cleanup")],
)
def test_a_leaf_that_loses_its_parent_ends(make: Callable[..., Rig], parent: str, last: str) -> None:
    rig = make(rank=1, size=2)
    rig.run(until="join")
    rig.machine.follow_parent()
    rig.follow(parent)
    rig.machine.lose_parent()
    rig.settle()
    assert rig.played.states[-6:] == [last, *STATES[NUMBER["shutdown"] :]]
    assert rig.machine.exit_code == 1


def test_a_configuration_that_cannot_be_taken_over(make: Callable[..., Rig]) -> None:
    rig = make(rank=1, size=2)
    rig.played.config = "sync-fail"
    rig.run(until="join")
    rig.machine.follow_parent()
    rig.follow("run")
    assert rig.played.states[:3] == ["join", "config-sync", "shutdown"]


@pytest.mark.parametrize(
    "name", ["broker.quorum-warn", "broker.cleanup-timeout", "broker.shutdown-warn", "broker.shutdown-timeout"]
)
def test_bad_times_are_refused_in_fluxs_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"Error parsing {name} attribute"):
        Rig(tmp_path, settings={name: "soon"})


@pytest.mark.parametrize("quorum", ["0x", "9", "none"])
def test_a_bad_quorum_is_refused(tmp_path: Path, quorum: str) -> None:
    with pytest.raises(ValueError, match=r"Error parsing broker\.quorum attribute"):
        Rig(tmp_path, settings={"broker.quorum": quorum})
