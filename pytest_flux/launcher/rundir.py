"""The run directory of an instance: its sockets live there, and it goes when the instance does.

Its path is short, because a UNIX socket's path is: 107 bytes, and less on macOS.
"""

from __future__ import annotations

import os
import stat

from pytest_flux.directories import MAX_RUNDIR, make_directory, make_temporary_directory, remove_tree
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.record import NamedTuple


class Rundir(NamedTuple):
    """A directory that exists, and whether it is ours to remove.

    ``path`` is as the user wrote it, ``location`` absolute and free of links, ``identity`` device and inode:
    something else that has taken its place is not removed. The value can be handed to another process, which
    may remove the directory in our stead.
    """

    path: str
    cleanup: bool
    location: str
    identity: tuple[int, int]

    def remove(self) -> None:
        """Remove the directory and all below it, if that is ours to do; nothing left to remove is fine.

        See remove_tree. Raises LaunchError if something stays.
        """
        if self.cleanup:
            try:
                remove_tree(self.location, self.identity)
            except OSError as error:
                raise LaunchError(f"cannot remove {self.path}: {error.strerror}") from None

    def claim(self) -> None:
        """Keep other sessions out for as long as this process lives. Raises LaunchError if one of them is in here."""
        import fcntl

        descriptor = os.open(self.location, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LaunchError(f"{self.path}: another instance runs in this directory") from None
        except OSError:
            # There are file systems without locks, and it is a mere courtesy.
            os.close(descriptor)


def prepare_rundir(spec: LaunchSpec) -> Rundir:
    """The run directory that a spec asks for, made if it has to be made. Raises LaunchError."""
    if spec.rundir is None:
        path = _make_temporary()
        created = True
    else:
        path = spec.rundir
        created = _make_missing(path) if spec.rundir_create else False
    try:
        status = os.stat(path)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    _check(path, status)
    cleanup = created or spec.rundir_cleanup
    return Rundir(path, cleanup, os.path.realpath(path), (status.st_dev, status.st_ino))


def _make_missing(path: str) -> bool:
    """Make a directory unless something of that name exists; tell whether it was made."""
    _check_length(path)
    try:
        make_directory(path)
    except FileExistsError:
        return False
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    return True


def _make_temporary() -> str:
    """A new directory ``${TMPDIR:-/tmp}/flux-XXXXXX``, or one in /tmp if $TMPDIR is too long for sockets."""
    # Absolute, for programs that go elsewhere.
    parent = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")
    if len(os.fsencode(parent)) + len("/flux-XXXXXX") > MAX_RUNDIR:
        parent = "/tmp"
    try:
        return make_temporary_directory(parent)
    except OSError as error:
        raise LaunchError(f"mkdtemp {error.filename}: {error.strerror}") from None


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise LaunchError(f"{path}: not a directory")
    if status.st_uid != os.geteuid():
        raise LaunchError(f"{path}: not owned by you")
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        raise LaunchError(f"{path}: no access")
    _check_length(path)


def _check_length(path: str) -> None:
    length = len(os.fsencode(path))
    if length > MAX_RUNDIR:
        raise LaunchError(
            f"{path}: a path of {length} bytes is too long for a run directory:"
            f" sockets in it need one of at most {MAX_RUNDIR}"
        )
