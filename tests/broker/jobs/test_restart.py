"""What an instance remembers of its jobs when it comes again."""

from __future__ import annotations

from pathlib import Path

from pytest_flux.protocol.job_state import RUN
from tests.broker.jobs.played import jobspec, played_instance


def test_restart(tmp_path: Path) -> None:
    """What is over is listed; what waited goes on; what ran is not run again."""
    with played_instance(tmp_path, ranks=1) as flux:
        done = flux.submit(jobspec(job={"name": "first"}))
        flux.wait_end(done)
        lost = flux.submit(jobspec("sleep", cores=4))
        flux.wait_state(lost, RUN)
        waiting, held = flux.submit(jobspec()), flux.submit(jobspec(), urgency=0)
        depending = flux.submit(jobspec(dependencies=[{"scheme": "afterok", "value": str(waiting)}]))
        flux.rpc("job-manager.queue-start", {"start": True, "all": False})
        before = flux.rpc("job-list.list-id", {"id": done, "attrs": ["all"]})
        events = flux.events(done)
        flux.manager.save()
        flux.settle()
    with played_instance(tmp_path, ranks=1) as flux:
        assert flux.rpc("job-list.list-id", {"id": done, "attrs": ["all"]}) == before
        assert flux.events(done) == events
        flux.wait_end(lost, waiting, depending)
        assert flux.executor.started == [waiting, depending]
        assert flux.job(lost).exception_type == "exec"
        assert "flux-restart" in flux.events(waiting)
        assert flux.job(held).state == 8
        assert flux.submit(jobspec()) > depending
        assert flux.rpc("job-manager.history.get", {"slice": "[:]"})["jobs"][1:] == [
            depending,
            held,
            waiting,
            lost,
            done,
        ]


def test_a_log_that_makes_no_sense(tmp_path: Path) -> None:
    """Costs that job, and no other."""
    with played_instance(tmp_path) as flux:
        good, bad = flux.submit(jobspec()), flux.submit(jobspec())
        flux.wait_end(good, bad)
        from pytest_flux.protocol.fluid import kvs_key

        flux.broker.parts.kvs.put(kvs_key(bad, "eventlog"), "nonsense\n")
        flux.broker.parts.kvs.settle()
    with played_instance(tmp_path) as flux:
        assert list(flux.manager.table.inactive) == [good]
