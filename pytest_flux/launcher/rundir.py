"""The run directory of an instance, which has its sockets and is removed with the instance.

Its path must be short, because the path of a UNIX socket has at most 107 bytes, and less on macOS.
"""

from __future__ import annotations

import os
import stat

from pytest_flux.directories import (
    MAX_RUNDIR,
    make_directory,
    make_temporary_directory,
    remove_tree,
    temporary_parent,
)
from pytest_flux.launcher.report import report
from pytest_flux.launcher.spec import LaunchError, LaunchSpec
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Rundir(NamedTuple):
    """A directory that exists, and whether we must remove it (``cleanup``).

    ``path`` is as the user wrote it, ``location`` absolute and free of links, ``identity`` device and inode: another
    directory in its place is not removed. The value can be sent to another process, which may remove the directory
    in our place.
    """

    path: str
    cleanup: bool
    location: str
    identity: tuple[int, int]

    def remove(self) -> None:
        """Remove the directory and all below it, if it is ours (see remove_tree). LaunchError if something stays."""
        if self.cleanup:
            try:
                remove_tree(self.location, self.identity)
            except OSError as error:
                raise LaunchError(f"cannot remove {self.path}: {error.strerror}") from None

    def claim(self) -> None:
        """Lock out other sessions as long as this process lives. Raises LaunchError if one uses the directory."""
        import fcntl

        descriptor = os.open(self.location, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LaunchError(f"{self.path}: another instance runs in this directory") from None
        except OSError:
            # Some file systems have no locks. Then we do without.
            os.close(descriptor)


def prepare_rundir(spec: LaunchSpec) -> Rundir:
    """Make or find the run directory of a spec. Raises LaunchError."""
    if spec.rundir is None:
        path = _make_temporary()
        created = True
    else:
        path = spec.rundir
        created = _make_missing(path) if spec.rundir_create else False
    try:
        link, status = os.lstat(path), os.stat(path)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
        # We would use, and maybe remove, whatever of ours somebody else has chosen.
        raise LaunchError(f"{path}: a link of another user (uid {link.st_uid})")
    _check(path, status)
    cleanup = created or spec.rundir_cleanup
    return Rundir(path, cleanup, os.path.realpath(path), (status.st_dev, status.st_ino))


def _make_missing(path: str) -> bool:
    """Make a directory unless something with that name exists. Return whether it was made."""
    _check_length(path)
    try:
        make_directory(path)
    except FileExistsError:
        return False
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    return True


def _make_temporary() -> str:
    """Make a directory ``flux-XXXXXX`` (see temporary_parent), in /tmp if $TMPDIR is too long for sockets."""
    parent = temporary_parent(os.environ)
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


def remove_leftovers(directories: Iterable[Rundir]) -> None:
    """Remove the directories that we must remove; from others, remove what brokers have made there.

    Brokers remove that themselves unless they are killed; real ones always leave the socket of their overlay.
    """
    for directory in directories:
        try:
            directory.remove()
        except LaunchError as error:
            report(str(error))
        if not directory.cleanup:
            _remove_sockets(directory.path)


def _remove_sockets(rundir: str) -> None:
    try:
        for name in os.listdir(rundir):
            path = f"{rundir}/{name}"
            if name.startswith(("start", "local-", "tbon-")) and stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        # A directory of the brokers, with a link to the flux command.
        if os.path.islink(f"{rundir}/bin/flux"):
            os.unlink(f"{rundir}/bin/flux")
            os.rmdir(f"{rundir}/bin")
    except OSError:
        # The directory is the user's and may have been removed.
        return
