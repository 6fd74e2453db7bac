"""When the exit timer runs: armed, disarmed, and left alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from pytest_flux.launcher.stopping import ExitReaper
from pytest_flux.reactor.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


class Watched:
    """A reaper of three ranks, and how often it has expired."""

    def __init__(self, reactor: Reactor, mode: str, timeout: float = 0.0) -> None:
        self.reactor = reactor
        self.expired = 0
        self.reaper = ExitReaper(reactor, 3, mode, timeout, self._expire)

    def _expire(self) -> None:
        self.expired += 1

    def update(self, *running: int) -> None:
        self.reaper.update(running)

    def expirations(self) -> int:
        """How often it has expired when all that is due has been done."""
        self.reactor.call_later(0.001, self.reactor.stop)
        self.reactor.run()
        return self.expired


@pytest.mark.parametrize(
    ("mode", "running", "expirations"),
    [
        ("any", (0, 1, 2), 0),
        ("any", (0, 2), 1),
        ("any", (1,), 1),
        ("any", (), 0),
        ("leader", (0, 1, 2), 0),
        ("leader", (0,), 0),
        ("leader", (1, 2), 1),
        ("leader", (), 0),
    ],
)
def test_mode_decides_when_it_runs(reactor: Reactor, mode: str, running: tuple[int, ...], expirations: int) -> None:
    watched = Watched(reactor, mode)
    watched.update(*running)
    assert watched.expirations() == expirations


def test_end_of_the_last_broker_disarms(reactor: Reactor) -> None:
    watched = Watched(reactor, "any")
    watched.update(1)
    watched.update()
    assert watched.expirations() == 0


def test_it_is_not_armed_again_while_the_condition_holds(reactor: Reactor) -> None:
    watched = Watched(reactor, "any")
    watched.update(1, 2)
    assert watched.expirations() == 1
    watched.update(1)
    assert watched.expirations() == 1


def test_it_is_armed_again_when_the_condition_has_been_false(reactor: Reactor) -> None:
    watched = Watched(reactor, "leader")
    watched.update(1, 2)
    assert watched.expirations() == 1
    watched.update(0, 1)
    watched.update(1)
    assert watched.expirations() == 2


def test_infinity_never_comes(reactor: Reactor) -> None:
    watched = Watched(reactor, "any", math.inf)
    watched.update(1)
    assert watched.expirations() == 0


def test_cancel_disarms(reactor: Reactor) -> None:
    watched = Watched(reactor, "any")
    watched.update(1)
    watched.reaper.cancel()
    assert watched.expirations() == 0
