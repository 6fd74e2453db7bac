"""Who gets resources when: order, backfill, constraints, queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import RUN, SCHED
from tests.broker.jobs.instance import Instance, instance, jobspec


def _waits(flux: Instance, job_id: int) -> bool:
    flux.wait_state(job_id, SCHED)
    # Another job comes and goes, so that the scheduler has looked.
    probe = flux.submit(jobspec("true", nodes=9), urgency=31)
    flux.wait_end(probe)
    return flux.job(job_id).state == SCHED


def test_backfill(tmp_path: Path) -> None:
    """A short job passes one that has to wait, if that does not delay it."""
    with instance(tmp_path, ranks=2) as flux:
        running = flux.submit(jobspec("sleep", cores=4, duration=100))
        flux.wait_state(running, RUN)
        head = flux.submit(jobspec("sleep", nodes=2, duration=10))
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
    with instance(tmp_path, ranks=2) as flux:
        running = flux.submit(jobspec("sleep", cores=4))
        flux.wait_state(running, RUN)
        flux.submit(jobspec("sleep", nodes=2))
        assert _waits(flux, flux.submit(jobspec("sleep", duration=1)))


def test_constraints(tmp_path: Path) -> None:
    """Hosts and ranks; what no node fulfils is refused."""
    with instance(tmp_path, ranks=3) as flux:
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
    with instance(tmp_path, ranks=2) as flux:
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
    with instance(tmp_path, ranks=2) as flux:
        flux.pool.mark_down([1])
        both = flux.submit(jobspec("sleep", nodes=2))
        assert _waits(flux, both)
        flux.pool.mark_up([1])
        flux.manager.alloc.plan()
        flux.wait_state(both, RUN)


def test_the_anonymous_queue(tmp_path: Path) -> None:
    """Stop and start, disable and enable."""
    with instance(tmp_path) as flux:
        assert flux.rpc("job-manager.queue-list") == {"queues": []}
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


def _still(flux: Instance, job_id: int) -> bool:
    flux.wait_state(job_id, SCHED)
    flux.rpc("job-manager.alloc-query")
    return flux.job(job_id).state == SCHED


def test_named_queues(tmp_path: Path) -> None:
    """Each stopped at first; a job names one, and may be moved."""
    config = {"queues": {"a": {}, "b": {"requires": ["node1"]}}}
    with instance(tmp_path, config) as flux:
        assert flux.rpc("job-manager.queue-list") == {"queues": ["a", "b"]}
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
