"""The directories of a broker, rundir and statedir, and the ``flux`` command in the former.

The rules are those of flux-core 0.88 (flux-broker-attributes(7)): an attribute that is not set gets a new
directory; one that names no directory has it made; one that names a place like /tmp, which its sticky bit tells,
gets a new directory in there; anything else is used and kept.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from pytest_flux.broker.attributes import Attributes
from pytest_flux.protocol.errors import FluxError
from pytest_flux.record import NamedTuple

# A UNIX socket's path has so much room, the NUL included; ``/local-9999`` must fit in behind the rundir.
_SOCKET_PATH_SIZE = 104 if sys.platform == "darwin" else 108
MAX_RUNDIR = _SOCKET_PATH_SIZE - len("/local-9999") - 1

# The kernel's limit for a script's first line was this before Linux 5.1; a longer one is cut, not refused.
_MAX_FIRST_LINE = 127

# Imports the very package that the broker is running, though it may have come from a source tree: such a tree
# stays at the end of the path, where it hides nothing. The first entry, the script's own directory or the current
# one, is no place to import from.
_PROGRAM = """\
import sys
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]
parent = {parent}
try:
    import pytest_flux
    found = list(pytest_flux.__path__) == [parent + "/pytest_flux"]
except ImportError:
    found = False
if not found:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytest_flux"]:
        del sys.modules[name]
    sys.path.insert(0, parent)
    import pytest_flux
    sys.path.append(sys.path.pop(0))
from pytest_flux.cli.flux import main
sys.exit(main())
"""

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ATTEMPTS = 100
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Cleanup(NamedTuple):
    """A directory to remove when its broker ends, by that process only: brokers are forked, and fork jobs.

    ``identity`` is device and inode: what has taken the directory's place since is not ours.
    """

    path: str
    identity: tuple[int, int]
    pid: int

    @classmethod
    def of(cls, path: str) -> Cleanup:
        """The clean-up of what is there now, wherever the process goes. Raises FluxError if nothing is."""
        path = os.path.realpath(path)
        status = _status(path)
        return cls(path, (status.st_dev, status.st_ino), os.getpid())

    def remove(self) -> bool:
        """Remove the directory with all that is below it; links are removed, never followed.

        Tells whether it is gone (or not ours). What can be removed is, even if something else cannot.
        """
        if os.getpid() != self.pid:
            return True
        try:
            directory = os.open(self.path, _DIRECTORY)
        except OSError as error:
            return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
        try:
            status = os.fstat(directory)
            if (status.st_dev, status.st_ino) != self.identity:
                return True
            # Twice: a process that is about to die may add something while the rest is removed.
            return _remove_opened(directory, self.path) or _remove_opened(directory, self.path)
        finally:
            os.close(directory)


def create_directory(attributes: Attributes, name: str, base: str) -> Cleanup | None:
    """Make or check the directory of the attribute ``name``, ``rundir`` or ``statedir``.

    New directories are made in ``base``. Sets the attribute, and ``NAME-cleanup``, which the user may have set to
    keep the directory or to have it removed. Returns what removes it, or None if it is to be kept. Raises
    FluxError, whose text begins with ``name``; a directory that was made is removed before.
    """
    try:
        path, created = _find(attributes, name, base)
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


def write_flux_script(rundir: str, python: str) -> Cleanup | None:
    """Write ``RUNDIR/bin/flux``, which runs ``pytest_flux.cli.flux.main()`` under the interpreter ``python``.

    Brokers that share a rundir may all do this at once, and while the command runs. Returns what removes ``bin``
    if this call has made it, for a rundir that outlives its brokers. Raises FluxError.
    """
    directory = f"{rundir}/bin"
    path = f"{directory}/flux"
    temporary = f"{directory}/.flux-{os.getpid()}-{os.urandom(4).hex()}"
    content = _flux_script(python)
    try:
        try:
            os.mkdir(directory, 0o755)
            made = Cleanup.of(directory)
        except FileExistsError:
            made = None
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o755)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(descriptor, 0o755)  # The umask may have taken something away.
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        number = error.errno or errno.EIO
        raise FluxError(number, f"rundir cannot write {path}: {os.strerror(number)}") from None
    return made


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
    problem = errno.EEXIST
    for _ in range(_ATTEMPTS):
        path = f"{base}/flux-" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(6))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        except OSError as error:
            problem = error.errno or errno.EIO
            break
        return path
    raise FluxError(problem, f"cannot create directory in {base}: {os.strerror(problem)}")


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


def _flux_script(python: str) -> bytes:
    if not os.path.isabs(python):
        raise FluxError(errno.EINVAL, f"rundir cannot write bin/flux: no path to Python in {python!r}")
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = _PROGRAM.format(parent=ascii(os.path.dirname(package)))
    first_line = f"#!{python}\n"
    if len(os.fsencode(first_line)) <= _MAX_FIRST_LINE and not any(letter.isspace() for letter in python):
        return os.fsencode(first_line + program)
    # A first line can hold neither a long path nor one with blanks, but a shell can run either.
    argument = program.replace("import sys\n", "import sys\ndel sys.argv[0]\n", 1)
    return os.fsencode(f'#!/bin/sh\nexec {_quote(python)} -c {_quote(argument)} "$0" "$@"\n')


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _remove_opened(directory: int, path: str) -> bool:
    _empty(directory)
    try:
        os.rmdir(path)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def _empty(directory: int) -> None:
    """Remove what is in an open directory. With descriptors, not paths: none can be swapped for a link."""
    with os.scandir(directory) as scan:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    for name, is_directory in entries:
        try:
            if is_directory:
                _remove_below(directory, name)
            else:
                os.unlink(name, dir_fd=directory)
        except OSError:  # Gone, or here to stay; the latter will keep the directory from being removed.
            pass


def _remove_below(parent: int, name: str) -> None:
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        # Jobs can leave directories that even their owner cannot read.
        os.chmod(name, 0o700, dir_fd=parent)
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.fchmod(directory, 0o700)
        _empty(directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)
