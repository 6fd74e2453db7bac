"""Traces, replayed on clusters that do not exist."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux.client.replay import ReplayOptions, read_trace
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.trace import TraceJob

# Submitted, runtime, processors, limit: a wide job behind a long one, and a short and a long narrow one behind both.
JOBS = [
    TraceJob("a", 100.0, 10.0, 6, 10.0, "1"),
    TraceJob("b", 100.0, 20.0, 2, 20.0, "1"),
    TraceJob("c", 101.0, 10.0, 8, 10.0, "2"),
    TraceJob("d", 102.0, 8.0, 2, 8.0, "2"),
    TraceJob("e", 103.0, 100.0, 2, 100.0, "2"),
    TraceJob("f", 103.0, 1.0, 99, 1.0, "2"),
]


def swf(jobs: list[TraceJob]) -> str:
    return "; Version: 2.2\n" + "".join(
        f"{number} {job.submit:.0f} -1 {job.runtime:.0f} {job.processors} -1 -1 {job.processors} {job.limit:.0f}"
        f" -1 1 {job.user} -1 -1 -1 -1 -1 -1\n"
        for number, job in enumerate(jobs, 1)
    )


@pytest.mark.parametrize(
    ("policy", "starts"),
    [("fcfs", [0, 0, 20, 30, 30]), ("easy", [0, 0, 20, 10, 30]), ("conservative", [0, 0, 20, 10, 30])],
)
def test_policies(policy: str, starts: list[float]) -> None:
    result = pytest_flux.replay(JOBS, nodes=8, policy=policy)
    assert [job.start for job in result.jobs] == starts
    assert result.refused == ["f"]
    assert [job.wait for job in result.jobs][:3] == [0, 0, 19]


def test_results(tmp_path: Path) -> None:
    path = tmp_path / "trace.swf.gz"
    path.write_bytes(gzip.compress(swf(JOBS).encode()))
    result = pytest_flux.replay(path, nodes=4, cores=2, spacing=2.0, count=3)
    assert [(job.name, job.submit, job.start, job.end) for job in result.jobs] == [
        ("1", 0, 0, 10),
        ("2", 0, 0, 20),
        ("3", 2, 20, 30),
    ]
    assert result.summary() == {
        "jobs": 3,
        "refused": 0,
        "makespan": 30.0,
        "wait": 6.0,
        "turnaround": pytest.approx((10 + 20 + 28) / 3),
        "bounded_slowdown": pytest.approx((1 + 1 + 2.8) / 3),
        "utilisation": pytest.approx((60 + 40 + 80) / 240),
    }
    assert result.utilisation() == [(0, 1.0), (10, 0.25), (20, 1.0), (30, 0.0)]
    file = io.StringIO()
    result.write_csv(file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert rows[2]["name"] == "3"
    assert float(rows[2]["wait"]) == 18.0


def test_options() -> None:
    chosen = list(ReplayOptions(first=1, most=2, spacing=0.5, scaling=0.3).choose(JOBS))
    assert [(job.name, job.submit, job.processors) for job in chosen] == [("b", 0.0, 1), ("c", 0.5, 3)]
    system = ReplayOptions(banks={"1": "physics"}).jobspec(JOBS[0])["attributes"]["system"]
    assert system["bank"] == "physics"
    whole = ReplayOptions(whole_nodes=True).jobspec(JOBS[0])["resources"][0]
    assert (whole["type"], whole["count"], whole["exclusive"]) == ("node", 6, True)


def test_a_trace_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pytest_flux.replay(tmp_path / "none", nodes=1)
    (tmp_path / "bad").write_text("1 2 3\n")
    with pytest.raises(ProtocolError, match="bad: line 1: 18 numbers"):
        read_trace(tmp_path / "bad")


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(swf(JOBS))
    conf = {"fake-resources": {"nnodes": 8, "cores-per-node": 1}, "sched-simple": {"queue-policy": "fcfs"}}
    with pytest_flux.start(broker="embedded", clock="auto", conf=conf) as instance:
        done = instance.run(f"flux replay --user-banks --csv={tmp_path}/csv {tmp_path}/trace")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:3] == ["jobs 5", "refused 1", "makespan 130"]
        assert (tmp_path / "csv").read_text().splitlines()[3].startswith("3,2,8,10.0,1.0,20.0,30.0,19.0")
        assert instance.clock.mode == "auto"
        done = instance.run(f"flux replay --format=pbs {tmp_path}/trace")
        assert (done.returncode, done.stderr) == (
            1,
            "flux-replay: --format=pbs: one of swf, sacct, flux is expected\n",
        )
