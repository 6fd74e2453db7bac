"""MPI programs as the brokers: MPICH finds its peers through the launcher's PMI server."""

from __future__ import annotations

import functools
import glob
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.integration import FLUX_START, run

PROGRAM = """\
#!{python}
import sys
from mpi4py import MPI

world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
neighbour = world.sendrecv(world.rank, (world.rank + 1) % world.size, source=(world.rank - 1) % world.size)
lines = world.gather(f"{{world.rank}} of {{world.size}}: sum {{total}}, after {{neighbour}}")
if lines:
    print(*lines, sep="\\n")
sys.exit({code} if world.rank == 1 else 0)
"""


@functools.cache
def why_no_mpi() -> str:
    """What is missing to run MPI programs; empty if nothing is."""
    if importlib.util.find_spec("mpi4py") is None:
        return "no mpi4py, with which MPI programs can be written"
    # In a process of its own, as importing it is MPI_Init().
    probe = run([sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())"])
    if "MPICH" not in probe.stdout:
        return f"no MPICH, which speaks PMI-1: mpi4py says {(probe.stdout + probe.stderr)[:80]!r}"
    return ""


@pytest.fixture(autouse=True)
def mpich() -> Iterator[None]:
    """Skips without MPICH; with it, there is one MPI program at a time, and no remains of another.

    MPICH names its shared memory after PMI's kvsname, which flux-start, like flux start, calls "-": programs that
    run at the same time would take each other's, and the next one that of a program that was killed.
    """
    missing = why_no_mpi()
    if missing:
        pytest.skip(missing)
    with FileLock(os.path.join(tempfile.gettempdir(), f"pytest-mpich-{os.getuid()}.lock")):
        for path in glob.glob("/dev/shm/mpich_*_280c9438_*"):  # the FNV-1a hash of "-"
            os.unlink(path)
        yield


def brokers(directory: Path, code: int = 0) -> dict[str, str]:
    """An environment in which flux-start takes an MPI program for the broker."""
    program = directory / "flux-broker"
    program.write_text(PROGRAM.format(python=sys.executable, code=code))
    program.chmod(0o755)
    return {"FLUX_EXEC_PATH_PREPEND": str(directory)}


@pytest.mark.parametrize(
    ("size", "clique"), [(1, "single"), (2, "single"), (4, "single"), (2, "per-broker"), (4, "none")]
)
def test_mpi_programs_find_each_other(tmp_path: Path, size: int, clique: str) -> None:
    result = run([*FLUX_START, f"--test-size={size}", f"--test-pmi-clique={clique}"], brokers(tmp_path))
    total = size * (size + 1) // 2
    lines = [f"{rank} of {size}: sum {total}, after {(rank - 1) % size}" for rank in range(size)]
    assert (result.stdout.splitlines(), result.stderr, result.returncode) == (lines, "", 0)


def test_their_exit_code_is_that_of_flux_start(tmp_path: Path) -> None:
    result = run([*FLUX_START, "-s2"], brokers(tmp_path, code=3))
    assert result.returncode == 3
    assert "flux-start: 1 (pid" in result.stderr
