"""The broker's directories, with the errors of flux-core 0.88."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot.rundir import Cleanup, create_directory
from pytest_flux.directories import MAX_RUNDIR
from pytest_flux.protocol.errors import FluxError

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may do it")


@pytest.fixture
def attributes() -> Attributes:
    return Attributes()


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A new directory whose path leaves room for a socket's name."""
    attributes = Attributes()
    cleanup = create_directory(attributes, "rundir", "/tmp")
    assert cleanup is not None
    yield cleanup.path
    assert cleanup.remove()


def refusal(attributes: Attributes, name: str, base: str) -> tuple[int, str | None]:
    with pytest.raises(FluxError) as raised:
        create_directory(attributes, name, base)
    return raised.value.errnum, raised.value.text


class TestDirectories:
    @pytest.mark.parametrize("name", ["rundir", "statedir"])
    def test_unset_makes_one(self, attributes: Attributes, short_path: str, name: str) -> None:
        cleanup = create_directory(attributes, name, short_path)
        path = attributes.get(name)
        assert path is not None
        assert cleanup is not None
        assert path.startswith(f"{short_path}/flux-")
        assert os.stat(path).st_mode & 0o7777 == 0o700
        assert attributes.get(f"{name}-cleanup") == "1"
        assert cleanup.remove()
        assert os.listdir(short_path) == []

    def test_missing_is_made(self, attributes: Attributes, short_path: str) -> None:
        attributes.set("statedir", f"{short_path}/new")
        cleanup = create_directory(attributes, "statedir", "/nowhere")
        assert cleanup is not None
        assert attributes.get("statedir") == f"{short_path}/new"
        assert attributes.get("statedir-cleanup") == "1"
        assert cleanup.remove()
        assert not os.path.exists(f"{short_path}/new")

    def test_existing_is_kept(self, attributes: Attributes, short_path: str) -> None:
        attributes.set("rundir", short_path)
        assert create_directory(attributes, "rundir", "/nowhere") is None
        assert attributes.get("rundir-cleanup") == "0"

    @pytest.mark.parametrize(("wanted", "kept"), [("1", False), ("yes", False), ("0", True), (None, True)])
    def test_cleanup_is_the_users_choice(
        self, attributes: Attributes, tmp_path: Path, wanted: str | None, kept: bool
    ) -> None:
        attributes.set("statedir", str(tmp_path / "s"))
        attributes.set("statedir-cleanup", wanted)
        assert (create_directory(attributes, "statedir", "/nowhere") is None) == kept
        assert attributes.get("statedir-cleanup") == wanted

    def test_a_place_like_tmp_gets_one_inside(self, attributes: Attributes, short_path: str) -> None:
        os.chmod(short_path, 0o1777)
        attributes.set("rundir", short_path)
        cleanup = create_directory(attributes, "rundir", "/nowhere")
        assert cleanup is not None
        assert str(attributes.get("rundir")).startswith(f"{short_path}/flux-")
        assert attributes.get("rundir") == cleanup.path

    def test_a_relative_path_is_removed_wherever_the_broker_goes(
        self, attributes: Attributes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        attributes.set("statedir", "relative")
        cleanup = create_directory(attributes, "statedir", "/nowhere")
        assert cleanup is not None
        assert attributes.get("statedir") == "relative"
        monkeypatch.chdir("/")
        assert cleanup.remove()
        assert not (tmp_path / "relative").exists()

    def test_a_relative_rundir_is_for_programs_anywhere(
        self, attributes: Attributes, short_path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(short_path)
        attributes.set("rundir", "relative")
        assert create_directory(attributes, "rundir", "/nowhere") is not None
        assert attributes.get("rundir") == f"{short_path}/relative"

    def test_a_path_as_long_as_sockets_allow(self, attributes: Attributes, short_path: str) -> None:
        longest = f"{short_path}/" + "x" * (MAX_RUNDIR - len(short_path) - 1)
        attributes.set("rundir", longest)
        create_directory(attributes, "rundir", "/nowhere")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{longest}/local-9999")

    def test_a_path_too_long_for_sockets(self, attributes: Attributes, short_path: str) -> None:
        longer = f"{short_path}/" + "x" * (MAX_RUNDIR - len(short_path))
        attributes.set("rundir", longer)
        text = (
            f"rundir length of {MAX_RUNDIR + 1} bytes exceeds max {MAX_RUNDIR} to allow for AF_UNIX socket creation."
        )
        assert refusal(attributes, "rundir", "/nowhere") == (errno.ENAMETOOLONG, text)
        assert os.listdir(short_path) == []  # What was made for nothing is gone.

    def test_a_statedir_may_be_that_long(self, attributes: Attributes, tmp_path: Path) -> None:
        attributes.set("statedir", str(tmp_path / ("x" * 200)))
        assert create_directory(attributes, "statedir", "/nowhere") is not None

    def test_a_file(self, attributes: Attributes, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        attributes.set("rundir", str(path))
        assert refusal(attributes, "rundir", "/") == (errno.ENOTDIR, f"rundir {path}: Not a directory")

    def test_no_parent(self, attributes: Attributes, tmp_path: Path) -> None:
        attributes.set("rundir", f"{tmp_path}/nope/nope")
        text = f"rundir error creating {tmp_path}/nope/nope: No such file or directory"
        assert refusal(attributes, "rundir", "/") == (errno.ENOENT, text)

    def test_no_base(self, attributes: Attributes) -> None:
        text = "statedir cannot create directory in /nonexist: No such file or directory"
        assert refusal(attributes, "statedir", "/nonexist") == (errno.ENOENT, text)
        assert "statedir" not in attributes

    def test_no_access(self, attributes: Attributes, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        attributes.set("rundir", str(tmp_path))
        text = f"rundir {tmp_path} does not have owner=rwx permissions"
        assert refusal(attributes, "rundir", "/") == (errno.EPERM, text)

    def test_owned_by_another(self, attributes: Attributes, tmp_path: Path) -> None:
        path = "/"
        if os.geteuid() == 0:
            path = str(tmp_path)
            os.chown(path, 1000, 1000)
        attributes.set("rundir", path)
        text = f"rundir {path} is not owned by instance owner: Operation not permitted"
        assert refusal(attributes, "rundir", "/") == (errno.EPERM, text)

    def test_no_value(self, attributes: Attributes) -> None:
        attributes.set("rundir", None)
        assert refusal(attributes, "rundir", "/") == (errno.EINVAL, "rundir attribute has no value")

    def test_a_link_to_nowhere(self, attributes: Attributes, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to("nowhere")
        attributes.set("statedir", str(link))
        assert refusal(attributes, "statedir", "/")[0] == errno.ENOENT


class TestCleanup:
    def test_everything_below_goes_and_nothing_outside(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").touch()
        directory = tmp_path / "d"
        (directory / "sub" / "sub").mkdir(parents=True)
        (directory / "sub" / "link").symlink_to(outside)
        (directory / "link").symlink_to(outside / "precious")
        os.mkfifo(directory / "fifo")
        (directory / "sub" / "closed").mkdir()
        (directory / "sub" / "closed" / "file").touch()
        (directory / "sub" / "closed").chmod(0)
        assert Cleanup.of(str(directory)).remove()
        assert sorted(os.listdir(tmp_path)) == ["outside"]
        assert os.listdir(outside) == ["precious"]

    def test_what_took_its_place_is_left_alone(self, tmp_path: Path) -> None:
        directory = tmp_path / "d"
        directory.mkdir()
        cleanup = Cleanup.of(str(directory))
        directory.rename(tmp_path / "moved")
        directory.symlink_to(tmp_path)
        assert cleanup.remove()
        directory.unlink()
        directory.mkdir()
        (directory / "precious").touch()
        assert cleanup.remove()
        assert sorted(os.listdir(tmp_path)) == ["d", "moved"]
        assert os.listdir(directory) == ["precious"]

    def test_twice(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        cleanup = Cleanup.of(str(tmp_path / "d"))
        assert cleanup.remove()
        assert cleanup.remove()

    def test_not_by_a_child(self, tmp_path: Path) -> None:
        cleanup = Cleanup.of(str(tmp_path))
        child = os.fork()
        if child == 0:
            cleanup.remove()
            os._exit(0)
        os.waitpid(child, 0)
        assert tmp_path.exists()

    @unprivileged
    def test_it_tells_if_something_stays(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        cleanup = Cleanup.of(str(tmp_path / "d"))
        tmp_path.chmod(0o500)
        try:
            assert not cleanup.remove()
        finally:
            tmp_path.chmod(0o700)
