"""job-list: order, attributes, constraints, statistics."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import RUN, SCHED
from tests.broker.jobs.played import PlayedInstance, jobspec, played_instance


def _ids(flux: PlayedInstance, **request: Any) -> list[int]:  # noqa: ANN401
    payload = {"max_entries": 0, "attrs": [], **request}
    return [job["id"] for job in flux.rpc("job-list.list", payload)["jobs"]]


class _Jobs:
    """One job of each kind, in one instance."""

    def __init__(self, flux: PlayedInstance) -> None:
        self.done = flux.submit(jobspec("/bin/true"))
        flux.wait_end(self.done)
        self.failed = flux.submit(jobspec("exit", "1", job={"name": "bad"}))
        flux.wait_end(self.failed)
        self.canceled = flux.submit(jobspec("sleep"))
        flux.wait_state(self.canceled, RUN)
        flux.rpc("job-manager.raise", {"id": self.canceled, "type": "cancel", "severity": 0})
        flux.wait_end(self.canceled)
        self.timeout = flux.submit(jobspec("sleep", duration=0.01))
        flux.wait_end(self.timeout)
        self.running = [flux.submit(jobspec("sleep", nodes=1, slots=2)) for _ in range(2)]
        for job_id in self.running:
            flux.wait_state(job_id, RUN)
        self.pending = [flux.submit(jobspec("true", nodes=2, cores=4), urgency=urgency) for urgency in (0, 16, 20)]
        for job_id in self.pending:
            flux.wait_state(job_id, SCHED)


def test_order_and_constraints(tmp_path: Path) -> None:
    """What flux-core's job-list does with the same jobs."""
    with played_instance(tmp_path) as flux:
        jobs = _Jobs(flux)
        over = [jobs.timeout, jobs.canceled, jobs.failed, jobs.done]
        everything = [*jobs.pending[::-1], *jobs.running[::-1], *over]
        assert _ids(flux) == everything
        assert _ids(flux, max_entries=4) == everything[:4]
        t_inactive = flux.job(jobs.failed).t_inactive
        assert _ids(flux, since=t_inactive) == everything[:-2]
        for constraint, expected in (
            ({"states": [62]}, everything[:5]),
            ({"states": ["pending"]}, everything[:3]),
            ({"states": ["running", 64]}, everything[3:]),
            ({"results": ["failed", 4]}, [jobs.canceled, jobs.failed]),
            ({"results": [8]}, [jobs.timeout]),
            ({"userid": [os.getuid()]}, everything),
            ({"userid": [os.getuid() + 1]}, []),
            ({"userid": [-1]}, everything),
            ({"name": ["bad", "true"]}, [*jobs.pending[::-1], jobs.failed, jobs.done]),
            ({"queue": ["x"]}, []),
            ({"hostlist": ["node1"]}, [jobs.running[1]]),
            ({"ranks": ["1-5"]}, [jobs.running[1]]),
            ({"t_inactive": [f">={t_inactive!r}"]}, over[:3]),
            ({"t_inactive": [f"<{t_inactive!r}"]}, [jobs.done]),
            ({"t_run": [">0"]}, everything[3:]),
            ({"t_submit": ["<=1"]}, []),
            ({"and": [{"states": [64]}, {"not": [{"results": [1]}]}]}, over[:3]),
            ({"or": [{"name": ["bad"]}, {"states": [16]}]}, [*jobs.running[::-1], jobs.failed]),
            ({"or": []}, everything),
            ({}, everything),
            (None, everything),
        ):
            assert _ids(flux, constraint=constraint) == expected, constraint
        legacy = {"userid": os.getuid(), "states": 64, "results": 1}
        assert _ids(flux, **legacy) == [jobs.done]


def test_stream(tmp_path: Path) -> None:
    """One job at a time, the first with a version."""
    with played_instance(tmp_path) as flux:
        ids = [flux.submit(jobspec()) for _ in range(3)]
        flux.wait_end(*ids)
        request = {"max_entries": 2, "attrs": ["state"]}
        call = flux.call("job-list.list", request, streaming=True)
        answers = call.all()
        assert call.error is not None
        assert call.error.errnum == errno.ENODATA
        assert answers[0]["version"] == 1
        assert [answer["jobs"][0]["state"] for answer in answers] == [64, 64]
        assert "version" not in answers[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_entries": -1}, "max_entries < 0 not allowed"),
        ({"since": -1}, "since < 0.0 not allowed"),
        ({"attrs": "all"}, "attrs must be an array"),
        ({"attrs": ["foo"]}, "foo is not a valid attribute"),
        ({"attrs": [1]}, "attr has no string value"),
        ({"constraint": []}, "constraint must be JSON object"),
        ({"constraint": {"a": [], "b": []}}, "constraint must only contain 1 element"),
        ({"constraint": {"foo": [1]}}, "unknown constraint operator: foo"),
        ({"constraint": {"name": "x"}}, "operator name values not an array"),
        ({"constraint": {"name": [1]}}, "name value must be a string"),
        ({"constraint": {"userid": ["x"]}}, "userid value must be an integer"),
        ({"constraint": {"states": ["x"]}}, "invalid states value 'x' specified"),
        ({"constraint": {"states": [256]}}, "invalid states value '100h' specified"),
        ({"constraint": {"results": [None]}}, "results value invalid type"),
        ({"constraint": {"hostlist": ["a["]}}, "host value not in valid Hostlist format"),
        ({"constraint": {"ranks": ["x"]}}, "ranks value 'x'"),
        ({"constraint": {"t_run": []}}, "timestamp value not specified"),
        ({"constraint": {"t_run": ["1"]}}, "timestamp comparison operator not specified"),
        ({"constraint": {"t_run": [">x"]}}, "Invalid timestamp value specified"),
        ({"constraint": {"t_run": [">-1"]}}, "timestamp value must be >= 0.0"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    """In flux-core's words."""
    with played_instance(tmp_path) as flux:
        with pytest.raises(FluxError) as caught:
            flux.rpc("job-list.list", {"max_entries": 0, "attrs": ["all"], **change})
        assert text in (caught.value.text or "")


def test_attributes(tmp_path: Path) -> None:
    """Those that a job has; what is absent is left out."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("/bin/sleep", "1", nodes=2, slots=2, cores=2, bank="b", project="p"), urgency=0)
        job = flux.rpc("job-list.list-id", {"id": job_id, "attrs": ["all"], "state": SCHED})["job"]
        times = {name: job.pop(name) for name in ("t_submit", "t_depend", "t_priority", "t_sched")}
        assert list(times.values()) == sorted(times.values())
        assert job == {
            "id": job_id,
            "userid": os.getuid(),
            "urgency": 0,
            "priority": 0,
            "state": SCHED,
            "name": "sleep",
            "cwd": "/tmp",
            "bank": "b",
            "project": "p",
            "ntasks": 4,
            "ncores": 8,
            "nnodes": 2,
            "duration": 0.0,
        }
        attributes = flux.rpc("job-list.list-attrs")["attrs"]
        assert attributes[:2] + attributes[-2:] == ["userid", "urgency", "dependencies", "all"]
        with pytest.raises(FluxError) as caught:
            flux.rpc("job-list.list-id", {"id": 1, "attrs": []})
        assert caught.value.errnum == errno.ENOENT


def test_waiting_for_a_state(tmp_path: Path) -> None:
    """The answer comes when the job is that far, or over."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"), urgency=0)
        running = flux.call("job-list.list-id", {"id": job_id, "attrs": ["state"], "state": RUN})
        cleanup = flux.call("job-list.list-id", {"id": job_id, "attrs": ["state"], "state": 32})
        assert flux.rpc("job-list.stats-get")["idsync"]["waits"] == 1
        assert not running.answers
        flux.rpc("job-manager.urgency", {"id": job_id, "urgency": 16})
        assert running.get() == {"job": {"id": job_id, "state": RUN}}
        flux.executor.end(job_id, 0)
        assert cleanup.get()["job"]["state"] in (32, 64)
        assert flux.rpc("job-list.stats-get")["idsync"]["waits"] == 0


def test_statistics(tmp_path: Path) -> None:
    """Once, and again when something has changed."""
    with played_instance(tmp_path) as flux:
        stream = flux.call("job-list.job-stats", streaming=True)
        jobs = _Jobs(flux)
        stats = flux.rpc("job-list.job-stats")
        assert {key: value for key, value in stats.items() if key != "job_states"} == {
            "successful": 1,
            "failed": 1,
            "canceled": 1,
            "timeout": 1,
            "inactive_purged": 0,
            "queues": [],
        }
        assert stats["job_states"] == {
            "depend": 0, "priority": 0, "sched": 3, "run": 2, "cleanup": 0, "inactive": 4, "total": 9,
        }  # fmt: skip
        flux.run_until(lambda: stream.answers[-1] == stats)
        assert stream.answers[0]["job_states"]["total"] == 0
        assert jobs.done
