"""Dependencies: when they hold a job, when they release it, and when they cannot be fulfilled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.jobs.dependencies import Dependencies
from pytest_flux.broker.jobs.events import Events
from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.store import Batch, Committed, Operation
from pytest_flux.broker.jobs.table import JobTable
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.broker.router import Router
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import CLEANUP, DEPEND, INACTIVE, RUN, SCHED
from pytest_flux.reactor.reactor import Reactor
from tests.broker.jobs.played import PlayedInstance, StoppedClock, jobspec, played_instance

_OWNER = os.getuid()


class _Memory:
    """A store that only counts commits."""

    is_volatile = True
    commits = 0

    def commit(self, operations: list[Operation], done: Committed, *, preserve: bool = False) -> None:
        self.commits += 1
        done(0)

    def lookup(self, key: str) -> bytes | None:
        return None

    def list(self, key: str) -> list[str]:
        return []

    def extent(self) -> tuple[int, int]:
        return 0, 0


class _Waiting:
    """Dependencies with events and jobs, but neither broker nor scheduler: jobs stay in SCHED until ``end``."""

    def __init__(self) -> None:
        self.clock = StoppedClock()
        self.reactor = Reactor(self.clock)
        self.table = JobTable()
        batch = Batch(self.reactor, _Memory(), lambda errnum: None, lambda: False)
        router = Router("uuid", 0, Topology("kary:2", 1))
        self.events = Events(self.table, batch, self.clock, router, _OWNER)
        self.events.connect(self, lambda job: None, self.table.retire)
        self.dependencies = Dependencies(self.reactor, self.table, self.events)

    def enqueue(self, job: Job) -> None:
        """See Scheduling."""

    def dequeue(self, job: Job) -> None:
        """See Scheduling."""

    def free(self, job: Job) -> None:
        """See Scheduling."""

    def submit(self, *dependencies: tuple[str, str], name: str | None = None, userid: int = _OWNER) -> Job:
        """Add a job with ``(scheme, value)`` pairs."""
        encoded = [{"scheme": scheme, "value": value} for scheme, value in dependencies]
        named = {} if name is None else {"name": name}
        job = Job(self.table.max_jobid + 1, jobspec(dependencies=encoded, job=named))
        self.table.active[job.id] = job
        self.events.post(job, "submit", {"userid": userid, "urgency": 16, "flags": 0, "version": 1})
        self.dependencies.check(job)
        self.dependencies.admitted(job)
        self.table.admit(job)
        self.events.post(job, "validate")
        return job

    def run(self, job: Job) -> None:
        """Let a job start."""
        self.events.post(job, "alloc")
        self.events.post(job, "start")

    def end(self, job: Job, status: int = 0) -> None:
        """Let a job run to its end."""
        if not job.was_started:
            self.run(job)
        self.events.post(job, "finish", {"status": status})

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and run what is due."""
        self.clock.now += seconds
        self.reactor.call_soon(self.reactor.stop)
        self.reactor.run()


@pytest.fixture
def waiting() -> Iterator[_Waiting]:
    waiting = _Waiting()
    yield waiting
    waiting.reactor.close()


@pytest.mark.parametrize(
    ("scheme", "status", "state"),
    [
        ("afterany", 256, SCHED),
        ("afterok", 0, SCHED),
        ("afterok", 256, INACTIVE),
        ("afternotok", 0, INACTIVE),
        ("afternotok", 256, SCHED),
        ("afterstart", 0, SCHED),
    ],
)
def test_alone_after(waiting: _Waiting, scheme: str, status: int, state: int) -> None:
    target = waiting.submit()
    job = waiting.submit((scheme, str(target.id)))
    assert job.state == DEPEND
    waiting.run(target)
    assert job.state == (SCHED if scheme == "afterstart" else DEPEND)
    waiting.end(target, status)
    assert job.state == state
    assert waiting.dependencies.query() == []


def test_alone_two_dependencies(waiting: _Waiting) -> None:
    first, second = waiting.submit(), waiting.submit()
    job = waiting.submit(("afterok", str(first.id)), ("afterany", str(second.id)))
    waiting.end(first)
    assert (job.state, job.dependencies) == (DEPEND, [f"after-finish={second.id}"])
    waiting.end(second)
    assert job.state == SCHED


def test_alone_job_of_another_user(waiting: _Waiting) -> None:
    target = waiting.submit(userid=_OWNER + 1)
    with pytest.raises(FluxError, match="Permission denied"):
        waiting.submit(("afterok", str(target.id)))


def test_alone_begin_time(waiting: _Waiting) -> None:
    job, past = waiting.submit(("begin-time", "1060")), waiting.submit(("begin-time", "1000"))
    waiting.pass_time(59)
    assert (job.state, past.state) == (DEPEND, SCHED)
    waiting.pass_time(1)
    assert job.state == SCHED


def test_alone_cancelled_before_begin_time(waiting: _Waiting) -> None:
    job = waiting.submit(("begin-time", "1060"))
    waiting.events.raise_exception(job, "cancel", 0)
    waiting.pass_time(61)
    assert [event["name"] for event in job.eventlog][-2:] == ["exception", "clean"]


def test_alone_singleton(waiting: _Waiting) -> None:
    first = waiting.submit(("singleton", ""), name="one")
    second, third = (waiting.submit(("singleton", ""), name="one") for _ in range(2))
    stranger = waiting.submit(("singleton", ""), name="one", userid=_OWNER + 1)
    assert [job.state for job in (first, second, third, stranger)] == [SCHED, DEPEND, DEPEND, SCHED]
    waiting.events.raise_exception(second, "cancel", 0)
    assert third.state == DEPEND
    waiting.end(first)
    assert third.state == SCHED


def test_alone_a_refused_job_leaves_nothing(waiting: _Waiting) -> None:
    target = waiting.submit()
    job = Job(99, jobspec(dependencies=[*_after("afterok", target.id), {"scheme": "x", "value": ""}]))
    job.userid = target.userid
    with pytest.raises(FluxError, match="not supported"):
        waiting.dependencies.check(job)
    waiting.dependencies.forget(job)
    assert waiting.dependencies.query() == []


def _after(scheme: str, target: int) -> list[dict[str, str]]:
    return [{"scheme": scheme, "value": f58(target)}]


def _end(flux: PlayedInstance, job_id: int, how: str) -> None:
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
    with played_instance(tmp_path) as flux:
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
    with played_instance(tmp_path) as flux:
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
    with played_instance(tmp_path) as flux:
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
    with played_instance(tmp_path) as flux:
        with pytest.raises(FluxError) as caught:
            flux.submit(jobspec(dependencies=[dependency]))
        assert text in (caught.value.text or "")
        assert not flux.manager.table.active
        assert not flux.broker.parts.kvs.list("job")


def test_begin_time(tmp_path: Path) -> None:
    """Later, and at once where that has been."""
    with played_instance(tmp_path) as flux:
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
    with played_instance(tmp_path) as flux:
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
    with played_instance(tmp_path) as flux:
        target = flux.submit(jobspec())
        job_id = flux.submit(jobspec(dependencies=_after("afterok", target)), urgency=0)
        flux.wait_state(job_id, SCHED)
        flux.wait_end(target)
        assert flux.job(job_id).priority == 0


def test_alone_a_cancelled_job_that_has_not_ended_yet(waiting: _Waiting) -> None:
    """As with a batch job whose instance is still shutting down: nobody knows the outcome before it has ended."""
    target = waiting.submit()
    waiting.run(target)
    target.start_pending = True
    ok, anyhow = waiting.submit(("afterok", str(target.id))), waiting.submit(("afterany", str(target.id)))
    waiting.events.raise_exception(target, "cancel", 0)
    assert (target.state, ok.state, anyhow.state) == (CLEANUP, DEPEND, DEPEND)
    waiting.events.post(target, "finish", {"status": 143 << 8})
    assert (ok.state, anyhow.state) == (DEPEND, DEPEND)
    target.start_pending = False
    waiting.events.act(target)
    assert (target.state, ok.state, anyhow.state) == (INACTIVE, INACTIVE, SCHED)
