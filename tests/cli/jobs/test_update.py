"""Changing jobs that were submitted, with each engine's own `flux update`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.jobs.commands import Commands


@pytest.fixture
def job(flux: Commands) -> Iterator[str]:
    found = flux.id("submit", "-t", "100s", "sleep", "600")
    assert flux("job", "wait-event", found, "start").code == 0
    yield found
    flux("cancel", found)


def _duration(flux: Commands, job: str) -> str:
    return flux("jobs", "-n", "-o", "{duration}", job).out.strip()


def test_durations(flux: Commands, job: str) -> None:
    for words, result in (("+10s", "110.0"), ("200", "200.0"), ("-1m", "140.0"), ("inf", "0.0"), ("1h", "3600.0")):
        told = flux("update", "-v", "--wait", job, f"duration={words}")
        assert told.err.endswith(f": INFO: updated attributes.system.duration to {result}\n")
        assert told.code == 0
        assert _duration(flux, job) == result


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("duration=-500", "cannot be reduced by 500"),
        ("duration=bogus", "invalid Flux standard duration"),
        ("duration=", "invalid Flux standard duration"),
        ("duration=0.001", "requested duration places job expiration in the past"),
        ("queue=x", "update of queue for running job not supported"),
        ("foo=bar", "update of attributes.system.foo not supported"),
        ("name=x", "update of attributes.system.job.name not supported"),
        ("attributes.user.x=1", "update of attributes.user.x not supported"),
    ],
)
def test_what_cannot_be(flux: Commands, job: str, words: str, complaint: str) -> None:
    result = flux("update", job, words)
    assert result.code == 1
    assert result.err.endswith(f"{complaint}\n")
    assert _duration(flux, job) == "100.0"


def test_without_limit_there_is_nothing_to_add_to(flux: Commands) -> None:
    job = flux.id("submit", "--urgency=0", "true")
    result = flux("update", job, "duration=+1")
    assert result.err.endswith(f"duration for {job} is unlimited, can't update by +1\n")
    flux("cancel", job)
    assert flux("update", job, "duration=1").err.endswith("job is inactive\n")


def test_dry_run(flux: Commands) -> None:
    result = flux("update", "-n", "f123", "duration=1m", "queue=b", 'x.y={"a":1}', "name=z", "tasks.x=1")
    assert result.out == (
        '{"attributes.system.duration": 60.0, "attributes.system.queue": "b", "attributes.system.x.y": {"a": 1}, '
        '"attributes.system.job.name": "z", "tasks.x": 1}\n'
    )
    assert flux("update", "f123").err.endswith("the following arguments are required: KEY=VALUE\n")
    assert flux("update").err.endswith("the following arguments are required: JOBID, KEY=VALUE\n")
