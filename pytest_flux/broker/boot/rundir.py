"""The directories of a broker, rundir and statedir.

The rules are those of flux-core 0.88 (flux-broker-attributes(7)): an attribute that is not set gets a new
directory; one that names a missing directory gets it made; one that names a place like /tmp, with the sticky bit,
gets a new directory in there; anything else is used and kept.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_flux.broker.attributes import Attributes
from pytest_flux.directories import MAX_RUNDIR, make_temporary_directory, remove_tree
from pytest_flux.protocol.errors import FluxError
from pytest_flux.record import NamedTuple


class Cleanup(NamedTuple):
    """A directory to remove when its broker ends, by that process only: brokers are forked, and fork jobs.

    ``identity`` is device and inode: a directory that has taken its place since is not ours.
    """

    path: str
    identity: tuple[int, int]
    pid: int

    @classmethod
    def of(cls, path: str) -> Cleanup:
        """The clean-up of an existing directory, which works from any current directory. Raises FluxError."""
        path = os.path.realpath(path)
        status = _status(path)
        return cls(path, (status.st_dev, status.st_ino), os.getpid())

    def remove(self) -> bool:
        """Remove the directory and everything below it (see remove_tree). Returns whether it is gone, or not ours."""
        if os.getpid() != self.pid:
            return True
        try:
            remove_tree(self.path, self.identity)
        except OSError:
            return False
        return True


def create_directory(attributes: Attributes, name: str, base: str) -> Cleanup | None:
    """Make or check the directory of the attribute ``name``, ``rundir`` or ``statedir``.

    New directories are made in ``base``. Sets the attribute, and ``NAME-cleanup``, which the user may have set to
    keep the directory or to have it removed. Returns its clean-up, or None if it is kept. Raises FluxError,
    whose text begins with ``name``; a directory that was made is removed before.
    """
    try:
        path, created = _find(attributes, name, base)
        absolute = os.path.abspath(path)
        # It is in PATH and FLUX_URI of programs that change their directory. If it is too long, a relative path is
        # better than none.
        if name == "rundir" and path != absolute and len(os.fsencode(absolute)) <= MAX_RUNDIR:
            path = absolute
            attributes.set(name, path)
        cleanup = Cleanup.of(path)
        try:
            _check(path)
            if name == "rundir":
                _check_length(path)
        except FluxError:
            if created:
                cleanup.remove()
            raise
    except FluxError as error:
        raise FluxError(error.errnum, f"{name} {error.text}") from None
    wanted = attributes.setdefault(f"{name}-cleanup", "1" if created else "0")
    return cleanup if wanted not in {None, "0"} else None


def _find(attributes: Attributes, name: str, base: str) -> tuple[str, bool]:
    """The directory's path, and whether it has been made."""
    path = attributes.get(name, base)
    if path is None:
        raise FluxError(errno.EINVAL, "attribute has no value")
    if name in attributes:
        if not os.path.exists(path):
            return path, _make_missing(path)
        if not os.stat(path).st_mode & stat.S_ISVTX:
            return path, False
    path = _make_temporary(path)
    attributes.set(name, path)
    return path, True


def _make_temporary(base: str) -> str:
    try:
        return make_temporary_directory(base)
    except OSError as error:
        number = error.errno or errno.EIO
        raise FluxError(number, f"cannot create directory in {base}: {os.strerror(number)}") from None


def _make_missing(path: str) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:  # Another broker was faster, or this is a link that leads nowhere.
        return False
    except OSError as error:
        number = error.errno or errno.EIO
        raise FluxError(number, f"error creating {path}: {os.strerror(number)}") from None
    return True


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        number = error.errno or errno.EIO
        raise FluxError(number, f"cannot stat {path}: {os.strerror(number)}") from None


def _check(path: str) -> None:
    status = _status(path)
    if status.st_uid != os.getuid():
        reason = os.strerror(errno.EPERM)
        raise FluxError(errno.EPERM, f"{path} is not owned by instance owner: {reason}")
    if not stat.S_ISDIR(status.st_mode):
        raise FluxError(errno.ENOTDIR, f"{path}: {os.strerror(errno.ENOTDIR)}")
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        raise FluxError(errno.EPERM, f"{path} does not have owner=rwx permissions")


def _check_length(path: str) -> None:
    length = len(os.fsencode(path))
    if length > MAX_RUNDIR:
        text = f"length of {length} bytes exceeds max {MAX_RUNDIR} to allow for AF_UNIX socket creation."
        raise FluxError(errno.ENAMETOOLONG, text)
