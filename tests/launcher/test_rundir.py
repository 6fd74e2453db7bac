from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.directories import MAX_RUNDIR
from pytest_flux.launcher.rundir import Rundir, prepare_rundir
from pytest_flux.launcher.spec import LaunchError, LaunchSpec

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a path short enough, current and for temporary files."""
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as path:
        monkeypatch.chdir(path)
        monkeypatch.setenv("TMPDIR", path)
        yield Path(path)


def refusal(spec: LaunchSpec) -> str:
    with pytest.raises(LaunchError) as caught:
        prepare_rundir(spec)
    return str(caught.value)


def test_a_directory_of_our_own(here: Path) -> None:
    rundir = prepare_rundir(LaunchSpec(size=1))
    assert re.fullmatch(re.escape(str(here)) + r"/flux-[A-Za-z0-9]{6}", rundir.path)
    assert stat.S_IMODE(os.stat(rundir.path).st_mode) == 0o700
    assert prepare_rundir(LaunchSpec(size=1)).path != rundir.path
    rundir.remove()
    assert not os.path.exists(rundir.path)


def test_the_umask_does_not_matter(here: Path) -> None:
    before = os.umask(0o777)
    try:
        rundirs = [
            prepare_rundir(LaunchSpec(size=1)),
            prepare_rundir(LaunchSpec(size=1, rundir="r", rundir_create=True)),
        ]
    finally:
        os.umask(before)
    for rundir in rundirs:
        assert stat.S_IMODE(os.stat(rundir.path).st_mode) == 0o700
        rundir.remove()


def test_the_path_is_good_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", ".")
    rundir = prepare_rundir(LaunchSpec(size=1))
    assert os.path.dirname(rundir.path) == str(here)
    rundir.remove()


def test_tmpdir_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/noexist")
    assert re.fullmatch(r"mkdtemp /noexist/flux-\w{6}: No such file or directory", refusal(LaunchSpec(size=1)))


def test_tmpdir_that_is_too_long_for_sockets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = here / ("x" * (MAX_RUNDIR - len("/flux-XXXXXX") - len(str(here)) - 1))
    longest.mkdir()
    monkeypatch.setenv("TMPDIR", str(longest))
    rundir = prepare_rundir(LaunchSpec(size=1))
    assert os.path.dirname(rundir.path) == str(longest)
    assert len(rundir.path) == MAX_RUNDIR
    rundir.remove()
    monkeypatch.setenv("TMPDIR", f"{longest}x")
    rundir = prepare_rundir(LaunchSpec(size=1))
    assert os.path.dirname(rundir.path) == "/tmp"
    rundir.remove()


def test_given_directories_stay(here: Path) -> None:
    (here / "r").mkdir()
    (here / "r" / "file").touch()
    rundir = prepare_rundir(LaunchSpec(size=1, rundir="r"))
    assert rundir.path == "r"
    rundir.remove()
    assert (here / "r" / "file").exists()


@pytest.mark.parametrize("given", ["r", "r/", "./r", "link", "link/"])
def test_given_directories_go_if_asked(given: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "r").mkdir()
    (here / "link").symlink_to("r")
    rundir = prepare_rundir(LaunchSpec(size=1, rundir=given, rundir_cleanup=True))
    assert rundir.path == given
    monkeypatch.chdir("/")
    rundir.remove()
    assert not (here / "r").exists()


def test_the_current_directory_goes_if_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "r").mkdir()
    monkeypatch.chdir(here / "r")
    prepare_rundir(LaunchSpec(size=1, rundir=".", rundir_cleanup=True)).remove()
    assert not (here / "r").exists()
    monkeypatch.chdir("/")


def test_created_directories_go_and_existing_ones_stay(here: Path) -> None:
    spec = LaunchSpec(size=1, rundir=str(here / "r"), rundir_create=True)
    created = prepare_rundir(spec)
    assert stat.S_IMODE(os.stat(created.path).st_mode) == 0o700
    existing = prepare_rundir(spec)
    existing.remove()
    assert (here / "r").exists()
    created.remove()
    assert not (here / "r").exists()


def test_what_is_refused(here: Path) -> None:
    (here / "file").touch()
    (here / "closed").mkdir(mode=0o500)
    too_long = "x" * (MAX_RUNDIR + 1)
    assert refusal(LaunchSpec(size=1, rundir="/noexist")) == "/noexist: No such file or directory"
    assert refusal(LaunchSpec(size=1, rundir="file")) == "file: not a directory"
    assert refusal(LaunchSpec(size=1, rundir="closed")) == "closed: no access"
    for create in (False, True):
        spec = LaunchSpec(size=1, rundir="a/b", rundir_create=create)
        assert refusal(spec) == "a/b: No such file or directory"
        assert refusal(spec._replace(rundir="file")) == "file: not a directory"
    assert refusal(spec._replace(rundir=too_long)).startswith(f"{too_long}: a path of {MAX_RUNDIR + 1} bytes")
    assert not os.path.exists(too_long)
    os.mkdir(too_long)
    assert str(MAX_RUNDIR) in refusal(LaunchSpec(size=1, rundir=too_long))


def test_directories_of_others_are_refused(here: Path) -> None:
    if AS_ROOT:
        (here / "foreign").mkdir(mode=0o777)
        os.chown(here / "foreign", 65534, 65534)
        path = "foreign"
    else:
        path = "/tmp"
    assert refusal(LaunchSpec(size=1, rundir=path)) == f"{path}: not owned by you"


def make_tree(top: str) -> None:
    os.makedirs(f"{top}/jobs/1/2")
    for name in ("local-0", "jobs/file", "jobs/1/2/file"):
        Path(top, name).touch()
    os.mkfifo(f"{top}/jobs/fifo")
    os.chmod(f"{top}/jobs/1/2", 0o000)
    os.chmod(f"{top}/jobs/1", 0o500)


def test_everything_below_goes_and_nothing_behind_links(here: Path) -> None:
    rundir = prepare_rundir(LaunchSpec(size=1))
    make_tree(rundir.path)
    (here / "outside").mkdir()
    (here / "outside" / "file").touch()
    for name, target in {"dir": "outside", "file": "outside/file", "gone": "nowhere"}.items():
        Path(rundir.path, name).symlink_to(here / target)
    rundir.remove()
    assert not os.path.lexists(rundir.path)
    assert (here / "outside" / "file").exists()


@pytest.mark.parametrize("replacement", ["nothing", "link", "directory", "file"])
def test_what_took_the_place_is_not_removed(replacement: str, here: Path) -> None:
    rundir = prepare_rundir(LaunchSpec(size=1))
    (here / "outside").mkdir()
    (here / "outside" / "file").touch()
    os.rename(rundir.path, here / "moved")
    if replacement == "link":
        os.symlink(here / "outside", rundir.path)
    elif replacement == "directory":
        os.mkdir(rundir.path)
    elif replacement == "file":
        Path(rundir.path).touch()
    rundir.remove()
    assert os.path.lexists(rundir.path) == (replacement != "nothing")
    assert (here / "outside" / "file").exists()


def test_removing_twice(here: Path) -> None:
    rundir = prepare_rundir(LaunchSpec(size=1))
    rundir.remove()
    rundir.remove()


def test_removal_by_another_process(here: Path) -> None:
    rundir = prepare_rundir(LaunchSpec(size=1))
    make_tree(rundir.path)
    Rundir(*rundir).remove()
    assert not os.path.exists(rundir.path)


def test_removal_by_several_at_once(here: Path) -> None:
    """As when a supervisor and whoever watches it both clean up."""
    rundir = prepare_rundir(LaunchSpec(size=1))
    for number in range(20):
        os.mkdir(f"{rundir.path}/{number}")
        make_tree(f"{rundir.path}/{number}")
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            try:
                rundir.remove()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    rundir.remove()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert not os.path.exists(rundir.path)


@pytest.mark.skipif(not AS_ROOT, reason="only root can give directories away")
def test_directories_of_others_stay(here: Path) -> None:
    rundir = prepare_rundir(LaunchSpec(size=1))
    os.mkdir(f"{rundir.path}/theirs")
    Path(rundir.path, "theirs", "file").touch()
    os.chown(f"{rundir.path}/theirs", 65534, 65534)
    with pytest.raises(LaunchError, match=f"cannot remove {rundir.path}: Operation not permitted"):
        rundir.remove()
    assert os.path.exists(f"{rundir.path}/theirs/file")
