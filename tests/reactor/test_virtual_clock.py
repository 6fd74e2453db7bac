"""A clock that is moved, on a reactor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.virtual_clock import MICROSECONDS, VirtualClock

START = 1000.0


class Stage:
    """A reactor with such a clock, and what has happened on it."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START)
        self.reactor = Reactor(self.clock)
        self.seen: list[tuple[str, float]] = []

    def note(self, name: str) -> Callable[[], None]:
        return lambda: self.seen.append((name, self.clock.time() - START))

    def move(self, seconds: float) -> None:
        """Move the clock, and run until there is nothing left to do."""
        self.clock.move(round(seconds * MICROSECONDS))
        self.settle()

    def settle(self) -> None:
        self.reactor.on_idle = self.reactor.stop
        self.reactor.stir()
        self.reactor.run()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.reactor.close()


def test_timers_see_their_own_time_in_due_order(stage: Stage) -> None:
    for name, delay in (("c", 3.0), ("a", 1.0), ("late", 10.5), ("b", 2.0), ("b2", 2.0)):
        stage.clock.call_later(delay, stage.note(name))
    stage.move(10)
    assert stage.seen == [("a", 1.0), ("b", 2.0), ("b2", 2.0), ("c", 3.0)]
    assert stage.clock.time() == START + 10
    assert stage.clock.due() == 10_500_000


def test_a_timer_may_arm_another_on_the_way(stage: Stage) -> None:
    def first() -> None:
        stage.clock.call_later(1.5, stage.note("second"))

    stage.clock.call_later(1.0, first)
    stage.move(3)
    assert stage.seen == [("second", 2.5)]


def test_cancelled_timers_are_not_due(stage: Stage) -> None:
    stage.clock.call_later(1.0, stage.note("never")).cancel()
    assert stage.clock.due() is None
    stage.move(3)
    assert stage.seen == []


def test_periods_that_are_passed_over_count_once(stage: Stage) -> None:
    beat = stage.clock.call_every(2.0, stage.note("beat"))
    stage.clock.call_later(7.0, stage.note("timer"))
    assert stage.clock.due() == 7_000_000
    stage.move(9)
    assert stage.seen == [("timer", 7.0), ("beat", 8.0)]
    stage.seen.clear()
    stage.move(10)
    assert stage.seen == [("beat", 10.0)]
    beat.cancel()
    stage.move(20)
    assert len(stage.seen) == 1


def test_moments_are_exact(stage: Stage) -> None:
    """Ten times a tenth of a second is a second, which is not so for floats."""
    stage.clock.call_later(1.0, stage.note("second"))
    for tenth in range(1, 11):
        assert stage.seen == []
        stage.move(tenth * 0.1)
    assert stage.seen == [("second", 1.0)]


def test_time_does_not_go_back(stage: Stage) -> None:
    stage.move(5)
    stage.move(2)
    assert stage.clock.time() == START + 5


def test_batched_work_is_done_before_the_loop_is_idle(stage: Stage) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("batched")
        stage.reactor.call_soon(lambda: order.append("soon"))

    stage.reactor.batch(3600.0, first)
    stage.reactor.batch(3600.0, lambda: order.append("second"))
    stage.settle()
    assert order == ["batched", "soon", "second"]


def test_a_running_clock_passes_by_itself_and_stops(stage: Stage) -> None:
    stage.clock.call_later(0.01, stage.reactor.stop)
    stage.clock.run()
    stage.reactor.run()
    stage.clock.stop()
    stopped = stage.clock.time()
    assert START + 0.01 <= stopped < START + 60
    assert stage.clock.time() == stopped


def test_two_clocks_with_one_state_agree(stage: Stage) -> None:
    other = VirtualClock(START)
    stage.move(5)
    stage.clock.run()
    other.follow(*stage.clock.state)
    before = stage.clock.time()
    assert before <= other.time() <= stage.clock.time()
    stage.clock.stop()
    other.follow(*stage.clock.state)
    assert other.is_running is False
    other.run_due(lambda callback: callback())
    assert other.time() == stage.clock.time()


def test_real_time_goes_on_while_the_clock_stands_still(stage: Stage) -> None:
    stage.clock.call_later(0.0001, stage.note("instance"))
    stage.reactor.call_later(0.01, stage.reactor.stop)
    stage.reactor.run()
    assert stage.seen == []
