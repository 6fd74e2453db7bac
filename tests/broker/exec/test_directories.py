"""Temporary directories of jobs: where they are, and that nobody else can have made them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_flux.broker.exec.directories import Directories
from pytest_flux.broker.exec.options import ShellFailure


def test_they_are_in_the_rundir_and_used_again(tmp_path: Path) -> None:
    directories = Directories(str(tmp_path), 0)
    first = directories.make("f1", 0, "/nonexistent")
    assert first == f"{tmp_path}/jobtmp-0-f1"
    inode = os.stat(first).st_ino
    directories.remove(first)
    second = directories.make("f2", 0, "/nonexistent")
    assert (second, os.stat(second).st_ino) == (f"{tmp_path}/jobtmp-0-f2", inode)
    (Path(second) / "file").touch()
    directories.remove(second)
    directories.destroy()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("obstacle", ["missing", "link", "directory"])
def test_what_others_have_made_is_not_taken(tmp_path: Path, obstacle: str) -> None:
    rundir, tmpdir, bait = (tmp_path / name for name in ("rundir", "tmp", "bait"))
    for directory in (tmpdir, bait):
        directory.mkdir()
    if obstacle != "missing":
        rundir.mkdir()
    for parent in (rundir, tmpdir):
        if obstacle == "link":
            (parent / "jobtmp-0-f1").symlink_to(bait)
        elif obstacle == "directory":
            (parent / "jobtmp-0-f1").mkdir(mode=0o777)
    made = Path(Directories(str(rundir), 0).make("f1", 0, str(tmpdir)))
    assert made.parent == tmpdir
    assert made.name.startswith("jobtmp-0-f1-")
    assert not made.is_symlink()
    assert (made.stat().st_uid, stat.S_IMODE(made.stat().st_mode)) == (os.getuid(), 0o700)
    assert os.listdir(made) == os.listdir(bait) == []


def test_there_may_be_no_place(tmp_path: Path) -> None:
    with pytest.raises(ShellFailure, match="error creating FLUX_JOB_TMPDIR: No such file or directory"):
        Directories(str(tmp_path / "a"), 0).make("f1", 0, str(tmp_path / "b"))
