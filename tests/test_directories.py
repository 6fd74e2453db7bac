"""Removing directories, with all that jobs may leave in them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.directories import make_temporary_directory, remove_tree

AS_ROOT = os.geteuid() == 0


def identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@pytest.fixture
def top(tmp_path: Path) -> str:
    return make_temporary_directory(str(tmp_path))


@pytest.fixture
def few_files() -> Iterator[None]:
    """A process that may open twenty files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_trees_may_be_deeper_than_stack_and_descriptors(top: str, tmp_path: Path) -> None:
    here = os.open(top, os.O_RDONLY)
    for level in range(2000):
        for name in ("below", "beside"):
            os.mkdir(name, dir_fd=here)
        os.close(os.open(f"file-{level}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("below", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(top, identity(top))
    assert os.listdir(tmp_path) == []


def test_modes_do_not_matter(top: str, tmp_path: Path) -> None:
    os.makedirs(f"{top}/a/b/c")
    for path in ("a/b/c", "a/b", "a"):
        os.chmod(f"{top}/{path}", 0)
    os.chmod(top, 0o500)
    if not AS_ROOT:
        os.chmod(top, 0o700)
    remove_tree(top, identity(top))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not AS_ROOT, reason="only root can give directories away")
def test_what_cannot_go_keeps_nothing_else(top: str) -> None:
    os.makedirs(f"{top}/a/theirs/c")
    os.makedirs(f"{top}/a/ours/c")
    os.chown(f"{top}/a/theirs", 65534, 65534)
    with pytest.raises(PermissionError):
        remove_tree(top, identity(top))
    (left,) = os.listdir(top)
    assert os.listdir(f"{top}/{left}") == ["c"]


@pytest.mark.skipif(not AS_ROOT, reason="only root can mount")
@pytest.mark.parametrize("place", ["mounted", "a/mounted"])
def test_what_is_mounted_is_left_alone(top: str, tmp_path: Path, place: str) -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    os.makedirs(f"{top}/{place}")
    if not hasattr(library, "mount") or library.mount(b"none", f"{top}/{place}".encode(), b"tmpfs", 0, None):
        pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    try:
        Path(top, place, "precious").touch()
        with pytest.raises(OSError, match=r"not permitted|busy"):
            remove_tree(top, identity(top))
        assert os.listdir(f"{top}/{place}") == ["precious"]
    finally:
        library.umount2(f"{top}/{place}".encode(), 2)
