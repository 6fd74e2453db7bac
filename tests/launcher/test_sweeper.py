"""The sweeper alone: what it kills and removes when its pipe ends, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.sessions import DEADLINE

# Tells a sweeper about the directories that it gets as arguments, and ends as the code says.
PRELUDE = """
import os, sys
from pytest_flux.launcher.rundir import Rundir
from pytest_flux.launcher.sweeper import Sweeper
def directory(path, cleanup=True, wrong=0):
    status = os.stat(path)
    return Rundir(path, cleanup, os.path.realpath(path), (status.st_dev, status.st_ino + wrong))
sweeper = Sweeper()
sweeper.settle()
path = sys.argv[1]
"""


def sweep(code: str, path: Path) -> None:
    """Run code that has a sweeper and ends, and wait until the sweeper has ended, too."""
    reader, writer = os.pipe()
    command = [sys.executable, "-c", PRELUDE + code, str(path)]
    # The sweeper inherits the descriptor, so its end is the pipe's.
    subprocess.run(command, pass_fds=(writer,), check=True, timeout=DEADLINE)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b""


@pytest.fixture
def rundir(tmp_path: Path) -> Path:
    """A directory with a name that a shell could misread."""
    path = tmp_path / "it's a $(directory) * "
    (path / "below").mkdir(parents=True)
    return path


@pytest.fixture
def processes(rundir: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A program beside the instance, a task of a job, and two that have nothing to do with it."""
    marks = (
        {"FLUX_START_URI": f"local://{rundir}/start"},
        {"FLUX_JOB_TMPDIR": f"{rundir}/jobtmp-0-f1"},
        {"FLUX_URI": f"local://{rundir}/local-0"},
        {"FLUX_START_URI": f"local://{rundir}-other/start"},
    )
    started = [subprocess.Popen(["sleep", "1000"], env={"PATH": os.defpath, **mark}) for mark in marks]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_everything_is_swept(rundir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    sweep("sweeper.mark(path); sweeper.remove(directory(path))", rundir)
    assert not rundir.exists()
    if sys.platform == "linux":
        assert [process.wait(DEADLINE) for process in processes[:2]] == [-9, -9]
    assert [process.poll() for process in processes[2:]] == [None, None]


def test_nothing_is_swept_after_an_orderly_end(rundir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    sweep("sweeper.mark(path); sweeper.remove(directory(path)); sweeper.dismiss()", rundir)
    assert rundir.exists()
    assert [process.poll() for process in processes] == [None] * 4


@pytest.mark.parametrize("how", ["cleanup=False", "wrong=1"])
def test_directory_that_is_not_ours_to_remove_stays(rundir: Path, how: str) -> None:
    sweep(f"sweeper.remove(directory(path, {how}))", rundir)
    assert (rundir / "below").exists()


def test_dead_sweeper_harms_nobody(rundir: Path) -> None:
    sweep("sweeper.dismiss()\nfor _ in range(100000): sweeper.mark(path)", rundir)
