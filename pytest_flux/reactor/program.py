"""Starting programs with posix_spawn(3), to which a search path and a working directory are added here.

It is not done with subprocess because that imports threading: what threading does after a fork makes 0.4 MiB of
memory private to each broker, and importing the two delays the first program by several milliseconds.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial

from pytest_flux.reactor.descriptors import keep_to_ourselves, open_standard_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

STDIN, STDOUT, STDERR = range(3)

_Action: TypeAlias = "tuple[int, int, int] | tuple[int, int, str, int, int]"

# Python ignores these, and what is ignored stays so in a program that is executed.
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def start_program(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pipes: Sequence[int] = (),
    discard: bool = False,
    group: bool = False,
) -> tuple[int, dict[int, int]]:
    """Start a program; its pid, and by stream our ends of the ``pipes`` that its standard streams are to be.

    The other streams are ours, or /dev/null if ``discard``. It leads a process group if ``group``. Nothing else that
    is open here is open there. Raises OSError if the program cannot be executed or ``cwd`` not be entered.
    """
    _settle_descriptors()
    ours: dict[int, int] = {}
    theirs: list[int] = []
    actions: list[_Action] = []
    try:
        for stream in (STDIN, STDOUT, STDERR):
            if stream in pipes:
                reading, writing = os.pipe()
                theirs.append(reading if stream == STDIN else writing)
                ours[stream] = writing if stream == STDIN else reading
                actions.append((os.POSIX_SPAWN_DUP2, theirs[-1], stream))
            elif discard:
                actions.append((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0))
        with _Directory(cwd):
            pid = _search(argv, os.environ if environ is None else environ, actions, group)
    except BaseException:
        for fd in ours.values():
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return pid, ours


def _search(argv: Sequence[str], environ: Mapping[str, str], actions: list[_Action], group: bool) -> int:
    """As execvpe(3), which says why it could not execute the first that was there."""
    program = argv[0]
    spawn = partial(os.posix_spawn, file_actions=actions, setsigdef=_PYTHON_IGNORES)
    if group:
        spawn = partial(spawn, setpgroup=0)
    missing = denied = None
    for path in [program] if "/" in program else _candidates(program, environ):
        try:
            return spawn(path, list(argv), environ)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            denied = denied or error
    raise denied or missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


def _candidates(program: str, environ: Mapping[str, str]) -> Iterator[str]:
    if program:
        for directory in environ.get("PATH", os.defpath).split(":"):
            yield f"{directory}/{program}" if directory else program


class _Directory:
    """Being in a directory, which a process of one thread can afford; None for where one is."""

    __slots__ = ("_before", "_path")

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._before = -1

    def __enter__(self) -> None:
        if self._path is not None:
            self._before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
            try:
                os.chdir(self._path)
            except OSError:
                os.close(self._before)
                raise

    def __exit__(self, *_: object) -> None:
        if self._before >= 0:
            try:
                os.fchdir(self._before)
            finally:
                os.close(self._before)


@cache
def _settle_descriptors() -> None:
    """Once: let programs inherit nothing that we inherited, and no pipe get the number of a standard stream."""
    open_standard_descriptors()
    keep_to_ourselves()
