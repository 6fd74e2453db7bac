"""What a real instance left behind, opened by an embedded one: everything recorded of it is found again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.cli.commands import find_entry
from pytest_flux.client import Flux
from pytest_flux.protocol.fluid import encode_fluid
from tests.launcher.sessions import DEADLINE
from tests.parity.instances import Engine, Running

DATA = Path(__file__).parent / "data"
RECORDED = DATA / "flux-0.88.0"
JOBS = sorted(path.name for path in (RECORDED / "job").iterdir())
FORMAT = "{id.f58} {id.dec} {name} {ntasks} {nnodes} {status} {returncode} {exception.type}"

# A dump holds values, not how they were stored (flux-restore(1)): directories that are empty are not in it, and a
# value in several parts comes back in one, inline if it is short.
_NOT_IN_DUMP = {"c.append", "e.empty"}


def _fingerprint(directory: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha1(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
    }


class Opened:
    """An instance in recovery mode."""

    def __init__(self, running: Running, source: str) -> None:
        self._running = running
        self.source = source

    def run(self, *command: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[bytes]:
        environ = {
            **os.environ,
            "FLUX_URI": f"local://{self._running.rundir}/local-0",
            "PATH": f"{self._running.rundir}/bin:{os.environ['PATH']}",
        }
        return subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)

    def connect(self) -> Flux:
        return Flux(f"local://{self._running.rundir}/local-0")


@pytest.fixture(scope="module", params=["dump", "state", "read-only state"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    directory = tmp_path_factory.mktemp("left") / "state"
    directory.mkdir(mode=0o700)
    target = directory
    if request.param == "dump":
        target = Path(shutil.copy(RECORDED / "dump.tar", directory))
    else:
        (directory / "content.sqlite").write_bytes((RECORDED / "content.sqlite").read_bytes())
    if request.param == "read-only state":
        (directory / "content.sqlite").chmod(0o400)
        directory.chmod(0o500)
    before = _fingerprint(directory)
    with Engine("embedded", os.environ["PATH"]).running("-s1", f"--recovery={target}") as running:
        yield Opened(running, request.param)
        outcome = running.stop()
    assert outcome.code == 0
    assert _fingerprint(directory) == before
    directory.chmod(0o700)


@pytest.mark.parametrize("job", JOBS)
def test_attach(opened: Opened, job: str) -> None:
    recorded = RECORDED / "job" / job
    done = opened.run("flux", "job", "attach", encode_fluid(int(job), "f58"))
    assert done.stdout == (recorded / "stdout").read_bytes()
    assert done.stderr == (recorded / "stderr").read_bytes()
    assert done.returncode == int((recorded / "rc").read_text())


@pytest.mark.parametrize("name", ["eventlog", "jobspec", "R", "guest.output", "guest.exec.eventlog"])
def test_job_data(opened: Opened, name: str) -> None:
    for job in JOBS:
        done = opened.run("flux", "job", "info", job, name)
        recorded = (RECORDED / "job" / job / name).read_bytes()
        if name == "jobspec":
            assert json.loads(done.stdout) == json.loads(recorded)
        else:
            assert done.stdout.strip() == recorded.strip()


def test_jobs(opened: Opened) -> None:
    if find_entry("jobs") is None:
        pytest.skip("there is no flux jobs yet")
    done = opened.run("flux", "jobs", "-a", "-n", "-o", FORMAT)
    assert done.stdout.decode() == (RECORDED / "jobs.txt").read_text()


@pytest.mark.system_flux
def test_jobs_by_flux(opened: Opened, system_flux: str) -> None:
    done = opened.run(system_flux, "jobs", "-a", "-n", "-o", FORMAT)
    assert done.stdout.decode() == (RECORDED / "jobs.txt").read_text()
    done = opened.run(system_flux, "jobs", "-a", "--json")
    assert json.loads(done.stdout) == json.loads((RECORDED / "jobs.json").read_text())


def recorded(name: str) -> list[tuple[str, str]]:
    return [(key, text) for key, _, text in (line.partition(" ") for line in (DATA / name).read_text().splitlines())]


@pytest.mark.parametrize(("key", "text"), recorded("kvs-values.txt"))
def test_values(opened: Opened, key: str, text: str) -> None:
    assert opened.run("flux", "kvs", "get", "--raw", key).stdout == base64.b64decode(text)


@pytest.mark.parametrize(("key", "text"), recorded("kvs-treeobj.txt"))
def test_tree_objects(opened: Opened, key: str, text: str) -> None:
    if opened.source == "dump" and key in _NOT_IN_DUMP:
        pytest.skip("a dump does not tell")
    done = opened.run("flux", "kvs", "get", "--treeobj", key)
    assert json.loads(done.stdout) == json.loads(text)


def test_keys(opened: Opened) -> None:
    listed = opened.run("flux", "kvs", "ls", "-1").stdout.decode().split()
    expected = "a admin b bin c checkpoint d deep e job resource".split()
    assert listed == [name for name in expected if name != "e" or opened.source != "dump"]


def test_all_is_offline(opened: Opened) -> None:
    with opened.connect() as flux:
        status = flux.rpc("resource.status").get()
        sets = flux.rpc("resource.sched-status").get()
    assert (status["online"], status["offline"]) == ("", "0-1")
    assert sets["down"] == sets["all"]
    assert sets["allocated"]["execution"]["R_lite"] == []
