"""The promises of docs/security.rst about other users, with a second real user: nobody. They need root."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux.directories import check_private, remove_tree
from pytest_flux.instance.flux_instance import InstanceError
from pytest_flux.instance.settings import Settings
from pytest_flux.instance.store import Store
from pytest_flux.launcher.rundir import prepare_rundir
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.plugin.sweep import sweep

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second user")

LAUNCH = Settings(broker="embedded")


def as_nobody(act: Callable[[], object]) -> str:
    """Do something as the user nobody, in a child. Return the name of the OSError that it raised, if any."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "not run"
        try:
            os.setgroups([])
            nobody = pwd.getpwnam("nobody")
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            act()
            answer = ""
        except OSError as error:
            answer = type(error).__name__
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory like /tmp, which is TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as directory:
        os.chmod(directory, 0o1777)
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that must not be ended."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        assert process.poll() is None
        process.kill()


def record_of(process: subprocess.Popen[bytes]) -> str:
    import psutil

    created = psutil.Process(process.pid).create_time()
    return json.dumps({"rundir": "/nowhere", "log": "/nowhere", "pid": process.pid, "created": created})


def test_others_cannot_enter_a_rundir(shared: Path) -> None:
    with pytest_flux.start(broker="embedded") as flux:
        path = f"{flux.rundir}/local-0"
        assert os.stat(flux.rundir).st_mode & 0o777 == 0o700
        assert as_nobody(lambda: os.listdir(flux.rundir)) == "PermissionError"
        assert as_nobody(lambda: socket.socket(socket.AF_UNIX).connect(path)) == "PermissionError"


def test_others_cannot_use_sockets_that_they_reach(shared: Path) -> None:
    rundir = shared / "open"
    rundir.mkdir()
    rundir.chmod(0o755)

    def ask() -> None:
        from pytest_flux.client import Flux

        Flux(f"local://{rundir}/local-0").getattr("rank")

    with pytest_flux.start(broker="embedded", rundir=str(rundir)):
        (rundir / "local-0").chmod(0o777)
        assert as_nobody(ask) in ("PermissionError", "ConnectionResetError", "FluxError")


def test_rundir_of_others_is_refused(shared: Path) -> None:
    assert as_nobody(lambda: os.mkdir(shared / "theirs")) == ""
    with pytest.raises(LaunchError, match="theirs: not owned by you"):
        prepare_rundir(LaunchSpec(size=1, rundir=str(shared / "theirs")))


def test_link_of_others_is_refused_as_rundir(shared: Path) -> None:
    ours = shared / "ours"
    ours.mkdir(0o700)
    assert as_nobody(lambda: os.symlink(ours, shared / "link")) == ""
    with pytest.raises(LaunchError, match=r"link: (a link of another user|Permission denied)"):
        prepare_rundir(LaunchSpec(size=1, rundir=str(shared / "link"), rundir_cleanup=True))
    assert ours.is_dir()


def test_store_of_others_is_not_believed(shared: Path, process: subprocess.Popen[bytes]) -> None:
    store = shared / f"pytest-flux-{os.getuid()}"
    record = record_of(process)

    def plant() -> None:
        store.mkdir(0o755)
        (store / "0123456789abcdef.json").write_text(record)

    assert as_nobody(plant) == ""
    with pytest.raises(pytest.UsageError, match=rf"{store}: not ours, owned by nobody \(uid \d+\)"):
        list(sweep())
    with pytest.raises(InstanceError, match=f"{store}: not ours"):
        Store(str(store)).lease(LAUNCH, -1)
    assert sorted(path.name for path in store.iterdir()) == ["0123456789abcdef.json"]


def test_link_in_place_of_the_store_is_not_followed(shared: Path, process: subprocess.Popen[bytes]) -> None:
    store, ours = shared / f"pytest-flux-{os.getuid()}", shared / "ours"
    ours.mkdir(0o700)
    (ours / "a.json").write_text(record_of(process))
    assert as_nobody(lambda: os.symlink(ours, store)) == ""
    with pytest.raises(pytest.UsageError, match="not a directory, but a link, owned by nobody"):
        list(sweep())
    with pytest.raises((InstanceError, OSError)):
        Store(str(store)).lease(LAUNCH, -1)
    assert [path.name for path in ours.iterdir()] == ["a.json"]


def test_store_that_others_may_enter_is_refused(shared: Path) -> None:
    store = shared / f"pytest-flux-{os.getuid()}"
    store.mkdir()
    store.chmod(0o770)
    with pytest.raises(PermissionError, match=r"accessible to others \(mode 0770\), owned by root"):
        check_private(str(store))


def test_sweep_leaves_directories_of_others(shared: Path) -> None:
    theirs = shared / "flux-aaaaaa"
    note = json.dumps({"pid": 1, "created": 1.0, "rundir": str(theirs)})

    def plant() -> None:
        theirs.mkdir(0o755)
        (theirs / ".pytest-flux").write_text(note)

    assert as_nobody(plant) == ""
    assert list(sweep()) == []
    assert (theirs / ".pytest-flux").exists()


def test_sweep_believes_no_note_of_others(shared: Path) -> None:
    # In a directory of ours, which others may write to, and by a link to a file of others.
    for number, mode in enumerate((0o777, 0o700)):
        ours = shared / f"flux-bbbbb{number}"
        ours.mkdir()
        note = json.dumps({"pid": 1, "created": 1.0, "rundir": str(ours)})
        (ours / "note").write_text(note)
        os.chown(ours / "note", pwd.getpwnam("nobody").pw_uid, -1)
        if number:
            (ours / ".pytest-flux").symlink_to(ours / "note")
        else:
            os.rename(ours / "note", ours / ".pytest-flux")
        ours.chmod(mode)
    assert list(sweep()) == []
    assert len(list(shared.glob("flux-bbbbb*"))) == 2


def test_removal_follows_no_link(shared: Path) -> None:
    precious, tree = shared / "precious", shared / "tree"
    for directory in (precious, tree):
        directory.mkdir(0o700)
    (precious / "file").touch()
    (tree / "link").symlink_to(precious)
    status = tree.stat()
    remove_tree(str(tree), (status.st_dev, status.st_ino))
    assert not tree.exists()
    assert (precious / "file").exists()
