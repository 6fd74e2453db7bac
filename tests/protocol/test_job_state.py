"""States, results, wait statuses."""

from __future__ import annotations

import pytest

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.job_state import (
    CANCELED,
    CLEANUP,
    COMPLETED,
    DEPEND,
    FAILED,
    INACTIVE,
    NEW,
    PRIORITY,
    RESULTS,
    RUN,
    SCHED,
    STATES,
    TIMEOUT,
    job_result,
    next_state,
    parse_result,
    parse_state,
    result_name,
    state_name,
)


def test_the_way_of_a_job() -> None:
    """The events of every recorded job that came out well."""
    state, seen = NEW, []
    for event in ("submit", "validate", "depend", "priority", "alloc", "start", "finish", "release", "free", "clean"):
        state = next_state(state, event, {})
        seen.append(state)
    assert seen == [NEW, DEPEND, PRIORITY, SCHED, RUN, RUN, CLEANUP, CLEANUP, CLEANUP, INACTIVE]


@pytest.mark.parametrize("state", [DEPEND, PRIORITY, SCHED, RUN, CLEANUP])
def test_a_fatal_exception_ends_every_state(state: int) -> None:
    """Others do not."""
    assert next_state(state, "exception", {"severity": 0}) == CLEANUP
    assert next_state(state, "exception", {"severity": 1}) == state


@pytest.mark.parametrize("state", [NEW, INACTIVE])
def test_except_the_first_and_the_last(state: int) -> None:
    """Which have nothing to clean up."""
    assert next_state(state, "exception", {"severity": 0}) == state


@pytest.mark.parametrize("event", ["urgency", "jobspec-update", "flux-restart"])
def test_ways_back(event: str) -> None:
    """From SCHED alone."""
    assert next_state(SCHED, event, {}) == PRIORITY
    assert next_state(RUN, event, {}) == RUN


def test_names() -> None:
    """Long and short, in any case."""
    for name, state in STATES.items():
        assert state_name(state) == name
        assert parse_state(name.lower()) == parse_state(name[0]) == state or name == "RUN"
    assert parse_state("active") == 62
    assert parse_state("pd") == 14
    assert parse_state("Running") == 48
    for name, result in RESULTS.items():
        assert result_name(result) == name
        assert parse_result(name.lower()) == result
    for parse in (parse_state, parse_result):
        with pytest.raises(ProtocolError):
            parse("nonsense")
    for show in (state_name, result_name):
        with pytest.raises(ProtocolError):
            show(3)


def test_results() -> None:
    """What came of it."""
    assert job_result(True, None) == COMPLETED
    assert job_result(False, None) == FAILED
    assert job_result(False, "cancel") == CANCELED
    assert job_result(False, "timeout") == TIMEOUT
    assert job_result(False, "exec") == FAILED
