"""The ``flux`` command in a broker's rundir, or elsewhere: a program of a few lines, which runs this very package."""

from __future__ import annotations

import errno
import os

from pytest_flux.protocol.errors import FluxError

# The kernel's limit for a script's first line was this before Linux 5.1; a longer one is cut, not refused.
_MAX_FIRST_LINE = 127

# Imports the very package that the broker is running, even from a source tree. Such a tree stays at the end of the
# path, so that it hides nothing. The first entry, the script's directory or the current one, is never imported from.
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
{preamble}from pytest_flux.cli.flux import main
sys.exit(main())
"""

_MARK = b"from pytest_flux.cli.flux import main\n"


def write_flux_script(rundir: str, python: str) -> None:
    """Write ``RUNDIR/bin/flux``, which runs ``pytest_flux.cli.flux.main()`` under the interpreter ``python``.

    Brokers that share a rundir may all do this at once, and while the command runs. Raises FluxError.
    """
    directory = f"{rundir}/bin"
    path = f"{directory}/flux"
    content = flux_script(python)
    try:
        try:
            os.mkdir(directory, 0o755)
            os.chmod(directory, 0o755)  # The umask may have taken something away.
        except FileExistsError:
            pass
        if os.statvfs(directory).f_flag & os.ST_NOEXEC:
            _link_command(path)
        else:
            write_script(path, content)
    except OSError as error:
        number = error.errno or errno.EIO
        raise FluxError(number, f"rundir cannot write {path}: {os.strerror(number)}") from None


def _link_command(path: str) -> None:
    """Link to a program of ours: nothing runs on a file system that is mounted with noexec. Raises OSError."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    temporary = f"{path}-{os.getpid()}"
    os.symlink(f"{package}/libexec/flux-command", temporary)
    os.rename(temporary, path)


def write_script(path: str, content: bytes) -> None:
    """Write what `flux_script` returns to ``path``, at once. Raises OSError."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}-{os.getpid()}-{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o755)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, 0o755)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def is_flux_script(path: str) -> bool:
    """Whether the file is one that `write_script` has written. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return _MARK in file.read(1 << 16)


def flux_script(python: str, preamble: str = "") -> bytes:
    """The command's text. Lines of Python in ``preamble`` run before the command. Raises FluxError."""
    if not os.path.isabs(python):
        raise FluxError(errno.EINVAL, f"rundir cannot write bin/flux: no path to Python in {python!r}")
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = _PROGRAM.format(parent=ascii(os.path.dirname(package)), preamble=preamble)
    first_line = f"#!{python}\n"
    if len(os.fsencode(first_line)) <= _MAX_FIRST_LINE and not any(letter.isspace() for letter in python):
        return os.fsencode(first_line + program)
    # A first line can hold neither a long path nor one with blanks, but a shell can run either.
    argument = program.replace("import sys\n", "import sys\ndel sys.argv[0]\n", 1)
    return os.fsencode(f'#!/bin/sh\nexec {_quote(python)} -c {_quote(argument)} "$0" "$@"\n')


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
