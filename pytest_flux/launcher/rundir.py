"""The run directory of an instance: its sockets live there, and it goes when the instance does.

Its path is short, because a UNIX socket's path is: 107 bytes, and less on macOS.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.record import NamedTuple

#: The longest path of a run directory: with ``/local-9999`` and a NUL it fills sockaddr_un.sun_path.
#: flux-core's brokers enforce the same.
MAX_PATH = (104 if sys.platform == "darwin" else 108) - len("/local-9999") - 1

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ATTEMPTS = 100


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

        Links are removed, never followed, and nor are directories that have been put in place of what was
        there. Directories that other users own are left alone. Raises LaunchError if something stays.
        """
        if not self.cleanup:
            return
        for attempt in range(2):
            try:
                self._remove()
            except FileNotFoundError:
                continue
            except OSError as error:
                # A dying broker may have made a file behind our back: one more round gets that too.
                if attempt:
                    raise LaunchError(f"cannot remove {self.path}: {error.strerror}") from None
            else:
                return

    def _remove(self) -> None:
        directory = os.open(self.location, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(directory)
            if (status.st_dev, status.st_ino) != self.identity or status.st_uid != os.geteuid():
                return
            _empty(directory)
        finally:
            os.close(directory)
        os.rmdir(self.location)


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
        _make(path)
    except FileExistsError:
        return False
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    return True


def _make_temporary() -> str:
    """A new directory ``${TMPDIR:-/tmp}/flux-XXXXXX``, or one in /tmp if $TMPDIR is too long for sockets."""
    # Absolute, for programs that go elsewhere.
    parent = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")
    if len(os.fsencode(parent)) + len("/flux-XXXXXX") > MAX_PATH:
        parent = "/tmp"
    path = ""
    for _ in range(_ATTEMPTS):
        path = f"{parent}/flux-" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(6))
        try:
            _make(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise LaunchError(f"mkdtemp {path}: {error.strerror}") from None
        return path
    raise LaunchError(f"mkdtemp {path}: {os.strerror(errno.EEXIST)}")


def _make(path: str) -> None:
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # The umask may have taken something away.


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
    if length > MAX_PATH:
        raise LaunchError(
            f"{path}: a path of {length} bytes is too long for a run directory:"
            f" sockets in it need one of at most {MAX_PATH}"
        )


def _empty(directory: int) -> None:
    """Remove everything in an open directory. With descriptors, not paths: none can be swapped for a link."""
    with os.scandir(directory) as scan:
        for entry in list(scan):
            if entry.is_dir(follow_symlinks=False):
                _remove_below(directory, entry.name)
            else:
                _unlink(directory, entry.name)


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _remove_below(parent: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            directory = os.open(name, flags, dir_fd=parent)
        except PermissionError:
            # A job may have left a directory that even its owner cannot read.
            os.chmod(name, 0o700, dir_fd=parent)
            directory = os.open(name, flags, dir_fd=parent)
        try:
            if os.fstat(directory).st_uid != os.geteuid():
                return
            os.fchmod(directory, 0o700)
            _empty(directory)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
