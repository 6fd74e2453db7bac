"""Rank 0 is killed amid its work and comes again: what was answered is there, and nothing is done twice."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.connection import Rpc
from pytest_flux.client.jobspec import from_command
from pytest_flux.client.kvs import SYNC, Kvs
from tests.launcher.sessions import DEADLINE
from tests.parity.instances import Engine, Running

COUNT = 200
INACTIVE = 64


def _begin(statedir: Path) -> list[str]:
    return ["-s2", f"-Sstatedir={statedir}"]


@pytest.fixture
def engine() -> Engine:
    return Engine("embedded", os.environ.get("PATH", os.defpath))


@pytest.fixture
def statedir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


def _until_lost(flux: Flux, is_time: Callable[[], bool], running: Running) -> None:
    """Take in answers until it is time to kill rank 0, and then what it still has sent."""
    deadline = time.monotonic() + DEADLINE
    while not is_time():
        assert time.monotonic() < deadline
        flux.dispatch(0.005)
    running.kill(0)
    while _is_connected(flux):
        assert time.monotonic() < deadline


def _is_connected(flux: Flux) -> bool:
    try:
        flux.dispatch(0.005)
    except ConnectionError:
        return False
    return True


def _note(answered: set[int], number: int, rpc: Rpc) -> None:
    rpc.get()
    answered.add(number)


@pytest.mark.parametrize("answers", [1, 77, 150])
def test_synchronous_commits(engine: Engine, statedir: Path, answers: int) -> None:
    answered: set[int] = set()
    with engine.running(*_begin(statedir)) as running:
        flux = running.client()
        for number in range(COUNT):
            transaction = Kvs(flux).transaction().put(f"a.b{number % 7}.k{number}", f"v{number}" * (number % 50))
            transaction.begin(SYNC).then(partial(_note, answered, number))
        _until_lost(flux, lambda: len(answered) >= answers, running)
    assert len(answered) >= answers
    with engine.running(*_begin(statedir)) as running:
        kvs = Kvs(running.client(1))
        found = {number: kvs.get(f"a.b{number % 7}.k{number}").decode() for number in answered}
    assert found == {number: f"v{number}" * (number % 50) for number in answered}


@pytest.mark.parametrize("runs", [1, 20, 60])
def test_jobs(engine: Engine, statedir: Path, tmp_path: Path, runs: int) -> None:
    record = tmp_path / "ran"
    record.touch()
    answered: set[int] = set()
    spec = from_command(["sh", "-c", f"echo $FLUX_JOB_ID >>{record}"], environment=dict(os.environ))
    with engine.running(*_begin(statedir)) as running:
        flux = running.client()
        for _ in range(COUNT):
            flux.jobs.begin_submit(spec).then(lambda rpc: answered.add(rpc.get()["id"]))
        _until_lost(flux, lambda: len(record.read_text().split()) >= runs, running)
    assert answered
    with engine.running(*_begin(statedir)) as running:
        flux = running.client()
        # There may be some whose answer was lost.
        for job in answered | {job["id"] for job in flux.jobs.list([])}:
            flux.rpc("job-list.list-id", {"id": job, "attrs": [], "state": INACTIVE}).get(DEADLINE)
        results = {job["id"]: job["success"] for job in flux.jobs.list(["success"])}
        notes = {job["id"]: job.get("exception_note") for job in flux.jobs.list(["exception_note"])}
    assert answered <= results.keys()
    counts = Counter(record.read_text().split())
    assert set(counts.values()) == {1}
    assert len(counts) >= sum(results.values())
    lost = {job for job, is_success in results.items() if not is_success}
    assert {notes[job] for job in lost} <= {"instance restarted while the job was running"}
    # No more of them than there is room for.
    assert len(lost) <= 2 * (os.cpu_count() or 1)
