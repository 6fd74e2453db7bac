"""Dependencies: when they hold a job, when they let it go, and when they never will."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import DEPEND, RUN, SCHED
from tests.broker.jobs.instance import Instance, instance, jobspec


def _after(scheme: str, target: int) -> list[dict[str, str]]:
    return [{"scheme": scheme, "value": f58(target)}]


def _end(flux: Instance, job_id: int, how: str) -> None:
    if how == "cancel":
        flux.rpc("job-manager.raise", {"id": job_id, "type": "cancel", "severity": 0})
    else:
        flux.wait_state(job_id, RUN)
        flux.executor.end(job_id, 0 if how == "ok" else 256)
    flux.wait_end(job_id)


@pytest.mark.parametrize(
    ("scheme", "how", "runs"),
    [
        ("afterok", "ok", True),
        ("afterok", "failed", False),
        ("afternotok", "ok", False),
        ("afternotok", "failed", True),
        ("afterany", "ok", True),
        ("afterany", "failed", True),
        ("afterexcept", "cancel", True),
        ("afterexcept", "failed", False),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_after(tmp_path: Path, scheme: str, how: str, *, runs: bool, late: bool) -> None:
    """Submitted before the other job has ended, or after."""
    with instance(tmp_path) as flux:
        target = flux.submit(jobspec("sleep"))
        flux.wait_state(target, RUN)
        if late:
            _end(flux, target, how)
        if late and not runs:
            with pytest.raises(FluxError, match="dependency: after"):
                flux.submit(jobspec(dependencies=_after(scheme, target)))
            return
        job_id = flux.submit(jobspec(dependencies=_after(scheme, target)))
        if not late:
            assert flux.job(job_id).state == DEPEND
            _end(flux, target, how)
        flux.wait_end(job_id)
        events = flux.events(job_id)
        assert events[:3] == ["submit", "dependency-add", "validate" if not late else "dependency-remove"]
        if runs:
            assert "dependency-remove" in events
            assert "start" in events
        else:
            assert events[-2:] == ["exception", "clean"]
            kind = {"afterok": "after-success", "afternotok": "after-failure", "afterexcept": "after-except"}[scheme]
            note = f"dependency {kind}={f58(target)} can never be satisfied"
            assert flux.job(job_id).exception_note == note


def test_after_start(tmp_path: Path) -> None:
    """And its old name, which draws a remark."""
    with instance(tmp_path) as flux:
        target = flux.submit(jobspec("sleep"), urgency=0)
        job_id = flux.submit(jobspec(dependencies=_after("after", target)))
        assert flux.events(job_id)[:4] == ["submit", "exception", "dependency-add", "validate"]
        listed = flux.rpc("job-list.list-id", {"id": job_id, "attrs": ["dependencies"]})["job"]
        assert listed["dependencies"] == [f"after-start={f58(target)}"]
        query = flux.rpc("job-manager.jobtap-query", {"name": ".dependency-after"})
        assert query["dependencies"][0]["depid"] == job_id
        flux.rpc("job-manager.urgency", {"id": target, "urgency": 16})
        flux.wait_end(job_id)
        assert flux.job(target).state == RUN


def test_never_started(tmp_path: Path) -> None:
    """A job that was cancelled before it could run."""
    with instance(tmp_path) as flux:
        target = flux.submit(jobspec(), urgency=0)
        bad, good = (flux.submit(jobspec(dependencies=_after(scheme, target))) for scheme in ("afterok", "afterany"))
        _end(flux, target, "cancel")
        flux.wait_end(bad, good)
        assert flux.job(bad).exception_note.endswith("job never started")
        assert flux.job(good).succeeded


@pytest.mark.parametrize(
    ("dependency", "text"),
    [
        ({"scheme": "afterok", "value": "x!"}, 'dependency: afterok: "x!" is not a valid jobid'),
        ({"scheme": "afterok", "value": "ƒ1"}, "dependency: afterok: id ƒ1: job not found"),
        ({"scheme": "afterok", "value": "ƒ2"}, "dependency: afterok: id ƒ2: job not found"),
        ({"scheme": "foo", "value": "1"}, 'dependency scheme "foo" not supported'),
        ({"scheme": "begin-time", "value": "x"}, "Invalid begin-time=x"),
        ({"scheme": "singleton", "value": ""}, "singleton jobs require a job name"),
    ],
)
def test_what_is_refused(tmp_path: Path, dependency: dict[str, str], text: str) -> None:
    """In flux-core's words; nothing of the job is left."""
    with instance(tmp_path) as flux:
        with pytest.raises(FluxError) as caught:
            flux.submit(jobspec(dependencies=[dependency]))
        assert text in (caught.value.text or "")
        assert not flux.manager.active
        assert not flux.broker.parts.kvs.list("job")


def test_begin_time(tmp_path: Path) -> None:
    """Later, and at once where that has been."""
    with instance(tmp_path) as flux:
        begin = time.time() + 0.1
        later, now = (
            flux.submit(jobspec(dependencies=[{"scheme": "begin-time", "value": f"{value:.3f}"}]))
            for value in (begin, 1.0)
        )
        flux.wait_end(now)
        flux.wait_end(later)
        assert flux.job(later).t_sched >= begin - 0.01
        context: dict[str, Any] = flux.job(later).eventlog[1]["context"]
        assert context == {"description": f"begin-time={begin:.3f}"}


def test_singleton(tmp_path: Path) -> None:
    """One job of a name at a time, in the order of submission; others do not mind."""
    with instance(tmp_path) as flux:
        spec = jobspec("sleep", job={"name": "one"}, dependencies=[{"scheme": "singleton", "value": ""}])
        ids = [flux.submit(spec) for _ in range(3)]
        other = flux.submit(jobspec("true", job={"name": "two"}, dependencies=[{"scheme": "singleton", "value": ""}]))
        flux.wait_end(other)
        for number, job_id in enumerate(ids):
            flux.wait_state(job_id, RUN)
            assert all(flux.job(waiting).state == DEPEND for waiting in ids[number + 1 :])
            flux.executor.end(job_id, 0)
        flux.wait_end(*ids)


def test_a_hold_outlasts_dependencies(tmp_path: Path) -> None:
    """Urgency is another matter."""
    with instance(tmp_path) as flux:
        target = flux.submit(jobspec())
        job_id = flux.submit(jobspec(dependencies=_after("afterok", target)), urgency=0)
        flux.wait_state(job_id, SCHED)
        flux.wait_end(target)
        assert flux.job(job_id).priority == 0
