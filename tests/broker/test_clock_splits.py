"""``advance(a); advance(b)`` is ``advance(a + b)``: a property of the event logs."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pytest_flux
from pytest_flux.instance.flux_instance import FluxInstance
from tests.broker.test_timekeeper import eventlog

SECONDS = st.integers(0, 8 * 3600 * 1000).map(lambda milliseconds: milliseconds / 1000)
JOBS = st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 3)), min_size=1, max_size=5)


def _events(instance: FluxInstance, jobs: list[tuple[int, int]], steps: list[float]) -> list[list[tuple[str, float]]]:
    """What happens to jobs (seconds, cores), as name and seconds since the submission."""
    begin = instance.clock.now().timestamp()
    submitted = [instance.submit_mock(seconds, cores_per_task=cores) for seconds, cores in jobs]
    for step in steps:
        instance.clock.advance(step)
    found = []
    for job in submitted:
        events = map(json.loads, eventlog(instance, job.id).splitlines())
        found.append([(event["name"], round(event["timestamp"] - begin, 6)) for event in events])
    instance.clock.advance("2d")
    return found


def test_advance_can_be_split() -> None:
    conf = {"fake-resources": {"nnodes": 1, "cores-per-node": 4}}
    with pytest_flux.start(broker="embedded", clock="manual", conf=conf) as instance:

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(JOBS, SECONDS, SECONDS)
        def check(jobs: list[tuple[int, int]], first: float, second: float) -> None:
            assert _events(instance, jobs, [first, second]) == _events(instance, jobs, [first + second])

        check()
