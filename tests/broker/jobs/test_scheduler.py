"""Who gets resources when: the scheduler alone, then within an instance, with constraints and queues."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.scheduler import Scheduler
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import RUN, SCHED
from pytest_flux.protocol.resource_pool import Infeasible, ResourcePool
from pytest_flux.protocol.resource_set import Node, ResourceSet
from tests.broker.jobs.played import PlayedInstance, StoppedClock, jobspec, played_instance

_R = {"R_lite": [{"rank": "0", "children": {"core": "0-2"}}], "starttime": 0.0, "nodelist": ["node0"]}


class _Decisions:
    """A scheduler on ``ranks`` nodes of four cores, and what it decides."""

    def __init__(self, ranks: int = 2) -> None:
        self.clock = StoppedClock()
        self.scheduler = Scheduler(self.clock, self._allocated, self._denied, self._annotate)
        nodes = {rank: Node(f"node{rank}", 0b1111, 0) for rank in range(ranks)}
        self.scheduler.pool = ResourcePool(ResourceSet(nodes))
        self.allocated: dict[int, dict[str, Any]] = {}
        self.denied: dict[int, str] = {}
        self.estimates: dict[int, float] = {}
        self._ids = itertools.count(1)

    def _allocated(self, job: Job, resources: dict[str, Any], annotations: dict[str, Any]) -> None:
        self.allocated[job.id] = {**resources["execution"], **annotations["sched"]}

    def _denied(self, job: Job, note: str) -> None:
        self.denied[job.id] = note

    def _annotate(self, job: Job, annotations: dict[str, Any]) -> None:
        self.estimates[job.id] = annotations["sched"]["t_estimate"]

    def add(self, priority: int = 16, **wanted: Any) -> Job:  # noqa: ANN401
        """Add a job; ``wanted`` as for ``jobspec``."""
        job = Job(next(self._ids), jobspec(**wanted))
        job.priority = priority
        self.scheduler.add(job)
        return job

    def schedule(self) -> list[int]:
        """The ids of the jobs that started in one pass, in that order."""
        before = len(self.allocated)
        self.scheduler.schedule()
        return list(self.allocated)[before:]


def test_priority_before_age() -> None:
    decisions = _Decisions(ranks=1)
    low, high, same = decisions.add(8, cores=4), decisions.add(20, cores=4), decisions.add(20, cores=4)
    assert [job.id for job in decisions.scheduler] == [high.id, same.id, low.id]
    assert decisions.schedule() == [high.id]
    decisions.scheduler.free(high)
    assert decisions.schedule() == [same.id]
    decisions.scheduler.remove(low)
    decisions.scheduler.free(same)
    assert decisions.schedule() == []


def test_the_end_of_an_allocation() -> None:
    decisions = _Decisions()
    timed, unlimited = decisions.add(duration=60), decisions.add()
    decisions.schedule()
    assert decisions.allocated[timed.id]["starttime"] == 1000.0
    assert decisions.allocated[timed.id]["expiration"] == 1060.0
    assert decisions.allocated[unlimited.id]["expiration"] == 0.0


def test_a_backfilled_job_ends_before_the_head_begins() -> None:
    decisions = _Decisions()
    running, head = decisions.add(cores=4, duration=100), decisions.add(nodes=2, cores=4, duration=10)
    exact, late = decisions.add(duration=100), decisions.add(duration=101)
    assert decisions.schedule() == [running.id, exact.id]
    assert decisions.allocated[exact.id]["backfill"] == f58(head.id)
    assert decisions.estimates == {head.id: 1100.0}
    decisions.clock.now = 1000.5
    assert decisions.schedule() == []
    decisions.scheduler.update_expiration(running, 1200.0)
    assert decisions.schedule() == [late.id]
    assert decisions.estimates == {head.id: 1200.0}


def test_no_backfill_if_the_head_waits_for_an_unlimited_job() -> None:
    decisions = _Decisions()
    running = decisions.add(cores=4)
    decisions.add(nodes=2, duration=10)
    decisions.add(duration=1)
    assert decisions.schedule() == [running.id]
    assert decisions.estimates == {}


def test_what_never_fits_is_denied() -> None:
    decisions = _Decisions()
    wide, fits = decisions.add(nodes=3), decisions.add()
    assert decisions.schedule() == [fits.id]
    assert decisions.denied == {wide.id: "unsatisfiable request: need 3 node(s) with 1 cores each, only 2 eligible"}
    bad = decisions.add(constraints={"colour": ["red"]})
    assert "cannot parse jobspec" in decisions.denied[bad.id]
    with pytest.raises(Infeasible):
        decisions.scheduler.check(jobspec(nodes=3))


def test_resources_of_an_earlier_run() -> None:
    decisions = _Decisions(ranks=1)
    first = decisions.add(cores=3)
    decisions.schedule()
    again, elsewhere = _Decisions(ranks=1), _Decisions(ranks=0)
    first.set_resources({"version": 1, "execution": {**_R, "expiration": 1500.0}})
    again.scheduler.restore(first)
    second = again.add(cores=2)
    assert again.schedule() == []
    again.scheduler.free(first)
    assert again.schedule() == [second.id]
    with pytest.raises(ProtocolError, match="ranks not in resource pool"):
        elsewhere.scheduler.restore(first)


def test_without_resources() -> None:
    decisions = _Decisions()
    decisions.scheduler.pool = None
    decisions.add()
    assert decisions.schedule() == []
    assert decisions.scheduler.expiration == 0.0
    decisions.scheduler.check(jobspec(nodes=99))


def _waits(flux: PlayedInstance, job_id: int) -> bool:
    flux.wait_state(job_id, SCHED)
    # Another job comes and goes, so that the scheduler has looked.
    probe = flux.submit(jobspec("true", nodes=9), urgency=31)
    flux.wait_end(probe)
    return flux.job(job_id).state == SCHED


def test_backfill(tmp_path: Path) -> None:
    """A short job passes one that has to wait, if that does not delay it."""
    with played_instance(tmp_path, ranks=2) as flux:
        running = flux.submit(jobspec("sleep", cores=4, duration=100))
        flux.wait_state(running, RUN)
        head = flux.submit(jobspec("sleep", nodes=2, cores=4, duration=10))
        long, unlimited = flux.submit(jobspec("sleep", duration=200)), flux.submit(jobspec("sleep"))
        short = flux.submit(jobspec("sleep", duration=50))
        flux.wait_state(short, RUN)
        assert flux.job(short).annotations == {
            "sched": {"resource_summary": "rank1/core0", "backfill": f58(head)},
        }
        assert {flux.job(job_id).state for job_id in (head, long, unlimited)} == {SCHED}
        estimate = (flux.job(head).annotations or {})["sched"]["t_estimate"]
        assert estimate == pytest.approx(flux.job(running).facts.expiration)
        flux.executor.end(running, 0)
        flux.executor.end(short, 0)
        flux.wait_state(unlimited, RUN)
        assert flux.executor.started == [running, short, head, long, unlimited]


def test_no_backfill_before_an_unlimited_job(tmp_path: Path) -> None:
    """Nobody knows how long it would wait."""
    with played_instance(tmp_path, ranks=2) as flux:
        running = flux.submit(jobspec("sleep", cores=4))
        flux.wait_state(running, RUN)
        flux.submit(jobspec("sleep", nodes=2))
        assert _waits(flux, flux.submit(jobspec("sleep", duration=1)))


def test_constraints(tmp_path: Path) -> None:
    """Hosts and ranks; what no node fulfils is refused."""
    with played_instance(tmp_path, ranks=3) as flux:
        for constraint, ranks in (
            ({"ranks": ["2"]}, "2"),
            ({"hostlist": ["node1"]}, "1"),
            ({"not": [{"hostlist": ["node[0-1]"]}]}, "2"),
        ):
            job_id = flux.submit(jobspec("sleep", constraints=constraint))
            flux.wait_state(job_id, RUN)
            assert flux.job(job_id).facts.ranks == ranks
        impossible = flux.submit(jobspec(constraints={"properties": ["moon"]}))
        flux.wait_end(impossible)
        assert flux.job(impossible).exception_type == "alloc"
        with pytest.raises(FluxError, match="invalid hosts: host 'nowhere' not found"):
            flux.submit(jobspec(constraints={"hostlist": ["nowhere"]}))


def test_exclusive_nodes(tmp_path: Path) -> None:
    """All of a node, or nothing of it."""
    with played_instance(tmp_path, ranks=2) as flux:
        small = flux.submit(jobspec("sleep"))
        flux.wait_state(small, RUN)
        spec = jobspec("sleep", nodes=1)
        spec["resources"][0]["exclusive"] = True
        whole, waiting = flux.submit(spec), flux.submit(spec)
        flux.wait_state(whole, RUN)
        assert flux.job(whole).facts.ncores == 4
        assert flux.job(whole).facts.ranks == "1"
        assert _waits(flux, waiting)
        flux.executor.end(small, 0)
        flux.wait_state(waiting, RUN)


def test_a_node_that_is_down(tmp_path: Path) -> None:
    """Is not used until it is back."""
    with played_instance(tmp_path, ranks=2) as flux:
        flux.pool.mark_down([1])
        both = flux.submit(jobspec("sleep", nodes=2))
        assert _waits(flux, both)
        flux.pool.mark_up([1])
        flux.manager.alloc.plan()
        flux.wait_state(both, RUN)


def test_the_anonymous_queue(tmp_path: Path) -> None:
    """Stop and start, disable and enable."""
    with played_instance(tmp_path) as flux:
        assert flux.rpc("job-manager.queue-list")["queues"] == []
        stop = {"start": False, "reason": "lunch", "all": False}
        flux.rpc("job-manager.queue-start", stop)
        assert flux.rpc("job-manager.queue-status") == {"enable": True, "start": False, "stop_reason": "lunch"}
        job_id = flux.submit(jobspec("sleep"))
        assert _still(flux, job_id)
        flux.rpc("job-manager.queue-start", {**stop, "start": True})
        flux.wait_state(job_id, RUN)
        with pytest.raises(FluxError, match="reason is required"):
            flux.rpc("job-manager.queue-enable", {"enable": False, "all": False})
        flux.rpc("job-manager.queue-enable", {"enable": False, "reason": "closed", "all": False})
        with pytest.raises(FluxError, match="job submission is disabled: closed"):
            flux.submit(jobspec())
        with pytest.raises(FluxError, match="'x' is not a valid queue"):
            flux.rpc("job-manager.queue-status", {"name": "x"})


def _still(flux: PlayedInstance, job_id: int) -> bool:
    flux.wait_state(job_id, SCHED)
    flux.rpc("job-manager.alloc-query")
    return flux.job(job_id).state == SCHED


def test_named_queues(tmp_path: Path) -> None:
    """Each stopped at first; a job names one, and may be moved."""
    config = {"queues": {"a": {}, "b": {"requires": ["node1"]}}}
    with played_instance(tmp_path, config) as flux:
        assert flux.rpc("job-manager.queue-list")["queues"] == ["a", "b"]
        with pytest.raises(FluxError, match="no queue specified"):
            flux.submit(jobspec())
        with pytest.raises(FluxError, match="Use --all"):
            flux.rpc("job-manager.queue-start", {"start": True, "all": False})
        first, second = (flux.submit(jobspec("sleep", queue="a")) for _ in range(2))
        assert _still(flux, first)
        flux.rpc("job-manager.update", {"id": second, "updates": {"attributes.system.queue": "b"}})
        assert flux.job(second).jobspec["attributes"]["system"]["constraints"] == {"properties": ["node1"]}
        flux.rpc("job-manager.queue-start", {"start": True, "all": True})
        flux.wait_state(first, RUN)
        flux.wait_state(second, RUN)
        assert flux.job(second).facts.ranks == "1"
        with pytest.raises(FluxError, match="update of queue for running job not supported"):
            flux.rpc("job-manager.update", {"id": second, "updates": {"attributes.system.queue": "a"}})
        queues = {entry["name"]: entry for entry in flux.rpc("job-list.job-stats")["queues"]}
        assert (queues["a"]["job_states"]["run"], queues["b"]["job_states"]["run"]) == (1, 1)
