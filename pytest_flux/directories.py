"""Make directories where others may write, find out whose they are, and remove them with all their content.

Launcher and brokers both do so. Either may have to do it in place of the other.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: The longest path of a run directory: with ``/local-9999`` and a NUL it fills sockaddr_un.sun_path.
#: flux-core's brokers enforce the same.
MAX_RUNDIR = (104 if sys.platform == "darwin" else 108) - len("/local-9999") - 1

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ATTEMPTS = 100
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def temporary_parent(environ: Mapping[str, str]) -> str:
    """The directory for new run directories: that of the job or instance that we are a part of, else $TMPDIR.

    An instance that is killed with everything in it cannot clean up. But who removes the outer one then removes the
    inner one as well. The job's directory (FLUX_JOB_TMPDIR) is the best place, because it ends with the job. If its
    path is too long for sockets, one of the directories around it may do.
    """
    for place in _enclosing(environ):
        if len(os.fsencode(place)) + len("/flux-XXXXXX") <= MAX_RUNDIR and _is_ours(place):
            return place
    # Absolute, for programs that change their working directory.
    return os.path.abspath(environ.get("TMPDIR") or "/tmp")


def _enclosing(environ: Mapping[str, str]) -> Iterator[str]:
    uri = environ.get("FLUX_START_URI", "")
    rundir = os.path.dirname(uri.removeprefix("local://")) if uri.startswith("local:///") else ""
    for place in (environ.get("FLUX_JOB_TMPDIR", ""), rundir):
        while os.path.isabs(place) and os.path.basename(place).startswith(("flux-", "jobtmp-")):
            yield place
            place = os.path.dirname(place)


def _is_ours(path: str) -> bool:
    """Whether this is a directory of our user, no link, which nobody else may change."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def make_temporary_directory(parent: str) -> str:
    """Make a new directory ``parent/flux-XXXXXX`` with mode 0700. Raises OSError, which names the path."""
    path = ""
    for _ in range(_ATTEMPTS):
        path = f"{parent}/flux-" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(6))
        try:
            make_directory(path)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def make_directory(path: str) -> None:
    """Make a new directory with mode 0700. Raises OSError."""
    os.mkdir(path, 0o700)
    if stat.S_IMODE(os.lstat(path).st_mode) != 0o700:
        os.chmod(path, 0o700)  # The umask has cleared bits.


def check_private(path: str) -> None:
    """Check that this is a directory, no link, of our user, which nobody else may enter.

    Others may have been faster with a well-known name in /tmp. If the answer is yes, it stays so: only we can change
    the directory, and in a directory with the sticky bit only we can replace it. Raises PermissionError, which names
    path and owner.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        problem = f"not a directory, but a {'link' if stat.S_ISLNK(status.st_mode) else 'file'}"
    elif status.st_uid != os.geteuid():
        problem = "not ours"
    elif status.st_mode & 0o077:
        problem = f"accessible to others (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    problem += f", owned by {_name_of(status.st_uid)}: remove it, or set TMPDIR to another place"
    raise PermissionError(errno.EPERM, problem, path)


def _name_of(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def remove_tree(path: str, identity: tuple[int, int]) -> None:
    """Remove a directory and all below it, if it has this device and inode number and belongs to our user.

    Links are removed, never followed. Mounts, and directories of other users, are left alone. It is no error if the
    directory does not exist. Raises OSError if something could not be removed; all else is removed then.
    """
    # Twice: a dying process may add something while the rest is removed.
    if not _remove(path, identity, last=False):
        _remove(path, identity, last=True)


def _remove(path: str, identity: tuple[int, int], *, last: bool) -> bool:
    try:
        directory = os.open(path, _OPEN)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return True
        raise
    try:
        status = os.fstat(directory)
        if (status.st_dev, status.st_ino) != identity or status.st_uid != os.geteuid():
            return True
        problem = _Removal(directory).run()
    finally:
        os.close(directory)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if last:
            raise problem or error from None
        return False
    return True


class _Removal:
    """Removes the content of an open directory, as far as possible.

    It works with descriptors, not paths, which could be replaced by links. It moves subdirectories up instead of
    descending into them: a tree may be deeper than the limits of descriptors and of the stack.
    """

    __slots__ = ("_device", "_directory", "_moved", "_token")

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._device = os.fstat(directory).st_dev
        self._token = os.urandom(4).hex()
        self._moved = 0

    def run(self) -> OSError | None:
        """Remove all, and return the first problem."""
        problem: OSError | None = None
        moved = -1
        while moved < self._moved:
            moved = self._moved
            problem = problem or _clear(self._directory, self._remove_below)
        return problem

    def _remove_below(self, name: str) -> None:
        directory = _open_below(self._directory, name)
        try:
            status = os.fstat(directory)
            if status.st_uid != os.geteuid() or status.st_dev != self._device:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            os.fchmod(directory, 0o700)
            problem = _clear(directory, lambda entry: self._move_up(directory, entry))
        finally:
            os.close(directory)
        if problem is not None:
            raise problem
        os.rmdir(name, dir_fd=self._directory)

    def _move_up(self, directory: int, entry: str) -> None:
        name = f".{self._token}-{self._moved}"
        try:
            os.rename(entry, name, src_dir_fd=directory, dst_dir_fd=self._directory)
        except PermissionError:
            # Moving a directory writes to its entry "..".
            os.chmod(entry, 0o700, dir_fd=directory)
            os.rename(entry, name, src_dir_fd=directory, dst_dir_fd=self._directory)
        self._moved += 1


def _clear(directory: int, remove_directory: Callable[[str], None]) -> OSError | None:
    """Remove the files in an open directory, and its directories by a callback. Return the first problem."""
    with os.scandir(directory) as scan:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    problem: OSError | None = None
    for name, is_directory in entries:
        try:
            if is_directory:
                remove_directory(name)
            else:
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = problem or error
    return problem


def _open_below(parent: int, name: str) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        # A job may leave a directory that its owner cannot read.
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _OPEN, dir_fd=parent)
