"""Brokers as the processes of a program under Hydra, MPICH's launcher: PMI 1.2 in version 5, PMI 1.1 before."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests.integration import FLUX_START, run


@functools.cache
def find_hydras() -> dict[str, str]:
    """The path of each Hydra, by major version: those next to our Python and on PATH."""
    found: dict[str, str] = {}
    for directory in (os.path.dirname(sys.executable), *os.get_exec_path()):
        path = os.path.join(directory, "mpiexec.hydra")
        if os.access(path, os.X_OK):
            answer = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"^\s*Version:\s*(\d+)\.", answer, re.MULTILINE)
            if version:
                found.setdefault(version[1], path)
    return found


@pytest.fixture(params=["4", "5"])
def mpiexec(request: pytest.FixtureRequest) -> str:
    """The mpiexec of one version of Hydra."""
    version: str = request.param
    if version not in find_hydras():
        pytest.skip(f"no Hydra of MPICH {version}: no such mpiexec.hydra on PATH or next to {sys.executable}")
    return find_hydras()[version]


def test_one_instance_of_all_processes(mpiexec: str) -> None:
    result = run([mpiexec, "-n", "3", *FLUX_START, "--broker=embedded", "flux", "getattr", "size"])
    assert (result.returncode, result.stdout, result.stderr) == (0, "3\n", "")


def test_the_exit_code_is_that_of_the_initial_program(mpiexec: str) -> None:
    result = run([mpiexec, "-n", "2", *FLUX_START, "--broker=embedded", "exit 5"])
    assert result.returncode == 5


def test_every_broker_can_be_reached(mpiexec: str) -> None:
    command = ["flux", "exec", "-r", "all", "flux", "getattr", "rank"]
    result = run([mpiexec, "-n", "3", *FLUX_START, "--broker=embedded", *command])
    assert (result.returncode, sorted(result.stdout.split())) == (0, ["0", "1", "2"])


def test_brokers_know_that_hydra_started_them(mpiexec: str) -> None:
    script = "flux getattr broker.boot-method; flux getattr hostlist; printenv PMI_FD PMI_RANK"
    result = run([mpiexec, "-n", "2", *FLUX_START, "--broker=embedded", script], {"FLUX_PMI_DEBUG": "1"})
    assert result.stdout.splitlines()[0] == "simple"
    # What has a PMI_FD of its own is the broker; its children must not believe that it is theirs.
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.count("bootstrap: simple: finalize: success") == 2


def test_a_run_directory_whose_name_hydra_would_spoil(mpiexec: str) -> None:
    with tempfile.TemporaryDirectory(prefix="a b\\c ") as directory:
        result = run(
            [mpiexec, "-n", "2", *FLUX_START, "--broker=embedded", "flux", "getattr", "size"], {"TMPDIR": directory}
        )
        assert (result.returncode, result.stdout) == (0, "2\n")
        assert os.listdir(directory) == []


def test_brokers_of_several_hosts_are_refused(mpiexec: str) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("only root, and with unshare(1), can make a second host out of this one")
    broker = [*FLUX_START, "--broker=embedded", "true"]
    # To a process with a host name of its own, this is another machine.
    elsewhere = [unshare, "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", *broker]
    result = run([mpiexec, "-n", "1", *broker, ":", "-n", "2", *elsewhere])
    assert result.returncode != 0
    assert "ranks 1-2 run on elsewhere: install flux-core for instances of several hosts" in result.stderr
