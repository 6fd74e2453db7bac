"""Starting programs from a process with a reactor: a broker, a job's process, a command of flux.

Elsewhere the conditions differ, and so does the way: the launcher starts brokers, which must inherit what a broker of
flux-core would (``launcher/spawn.py``), and a client of the user's may have threads (``client/connector.py``).

The usual way, the module subprocess, costs too much here. It imports threading, which after a fork makes 0.4 MiB of
memory private to each broker, and importing both delays the first program by several milliseconds. A fork of our own
copies the page tables of a broker for every task of a job, and jobs of a few milliseconds are what test suites are
made of. posix_spawn(3) does neither: the child borrows the parent's memory until it executes the program.

What posix_spawn cannot do for the child, the parent does to itself for that moment, and undoes it: it changes its
directory and its soft limits. A process of one thread can afford that; this module must not be used
where other threads run. Some limits would strike the parent before it could undo them (RLIMIT_CPU, RLIMIT_AS, ...). A
program with such limits is forked, by subprocess.

What must stay true:

* Nothing that is open here is open in the program, except its three standard streams and the descriptors it was
  given. The first start therefore marks everything that was inherited as close-on-exec.
* The signals that Python ignores are not ignored in the program, and none is blocked.
* A program is found as execvp(3) finds it, in the search path of its own environment and from its own directory; a
  file that is executable but has no "#!" is given to sh.
* Whatever fails, this process is as it was before, and nothing is left open.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from pytest_flux.reactor.descriptors import keep_to_ourselves, open_standard_descriptors
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STDIN, STDOUT, STDERR = range(3)

PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and an ignored signal stays ignored in a program that is executed."""

# These would strike this process itself if it had them for a moment.
_DANGEROUS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK")
    if hasattr(resource, name)
)


class Program(NamedTuple):
    """What to run, and how.

    ``cwd`` and ``group`` are ours if they are None; ``group`` 0 is a new process group that the program leads.
    ``limits`` are pairs of a resource (see :mod:`resource`) and its soft limit. ``terminal`` is the path of its
    controlling terminal, which then is its three standard streams. ``signals`` get their default actions back.
    """

    argv: Sequence[str]
    environ: Mapping[str, str]
    cwd: str | None = None
    group: int | None = None
    limits: Sequence[tuple[int, int]] = ()
    terminal: str | None = None
    signals: Sequence[int] = PYTHON_IGNORES


def start_program(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pipes: Sequence[int] = (),
    discard: bool = False,
    group: bool = False,
) -> tuple[int, dict[int, int]]:
    """Start a program; return its pid and, by stream, our ends of the ``pipes`` that replace its standard streams.

    The other streams are ours, or /dev/null if ``discard``. The program leads a process group if ``group``. Raises
    OSError if the program cannot be executed or ``cwd`` cannot be entered.
    """
    # Before there are pipes: they must not get the number of a standard stream that is closed.
    _settle_descriptors()
    ours: dict[int, int] = {}
    theirs: dict[int, int] = {}
    try:
        for stream in (STDIN, STDOUT, STDERR):
            if stream in pipes:
                reading, writing = os.pipe()
                theirs[stream], ours[stream] = (reading, writing) if stream == STDIN else (writing, reading)
            elif discard:
                theirs[stream] = os.open(os.devnull, os.O_RDWR)
        program = Program(argv, os.environ if environ is None else environ, cwd, 0 if group else None)
        pid = spawn(program, theirs)
    except BaseException:
        close_all(ours.values())
        raise
    finally:
        close_all(theirs.values())
    return pid, ours


def spawn(program: Program, streams: Mapping[int, int]) -> int:
    """Start a program and return its process id. Raises OSError if it cannot be executed.

    ``streams`` has our descriptors by the numbers that they have in the program. A standard stream that is not among
    them is ours. If a descriptor is no standard stream, it must come after those that are.
    """
    _settle_descriptors()
    restore: list[Callable[[], None]] = []
    try:
        if program.cwd is not None:
            restore.append(_enter(program.cwd))
        path = find_program(program.argv[0], program.environ)
        if any(kind in _DANGEROUS for kind, _ in program.limits):
            return _fork(path, program, streams)
        for kind, soft in program.limits:
            before = resource.getrlimit(kind)
            resource.setrlimit(kind, (soft, before[1]))
            restore.append(_later(resource.setrlimit, kind, before))
        for target, source in streams.items():
            if source == target:
                os.set_inheritable(source, True)
                restore.append(_later(os.set_inheritable, source, False))
        return _posix_spawn(path, program, streams)
    finally:
        for undo in reversed(restore):
            undo()


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """Where execvp(3) finds a program. Raises FileNotFoundError or PermissionError."""
    if "/" in name:
        return name
    number = errno.ENOENT
    for directory in environ.get("PATH", os.defpath).split(":") if name else ():
        path = f"{directory}/{name}" if directory else f"./{name}"
        try:
            is_file = stat.S_ISREG(os.stat(path).st_mode)
        except OSError:
            continue
        if is_file and os.access(path, os.X_OK):
            return path
        if is_file:
            number = errno.EACCES
    raise OSError(number, os.strerror(number), name)


def close_all(descriptors: Iterable[int]) -> None:
    """Close several descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def _posix_spawn(path: str, program: Program, streams: Mapping[int, int]) -> int:
    actions: list[tuple[Any, ...]] = []
    how: dict[str, Any] = {"setsigmask": (), "setsigdef": program.signals}
    if program.terminal is not None:
        # The first terminal that the leader of a session opens becomes its own.
        actions = [(os.POSIX_SPAWN_OPEN, STDIN, program.terminal, os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, STDIN, target) for target in (STDOUT, STDERR)]
        how["setsid"] = True
    elif program.group is not None:
        how["setpgroup"] = program.group
    actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in streams.items() if source != target]
    try:
        return os.posix_spawn(path, list(program.argv), program.environ, file_actions=actions, **how)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    argv = ["sh", path, *program.argv[1:]]
    return os.posix_spawn("/bin/sh", argv, program.environ, file_actions=actions, **how)


def _fork(path: str, program: Program, streams: Mapping[int, int]) -> int:
    import subprocess

    def before_exec() -> None:
        if program.terminal is not None:
            os.setsid()
            terminal = os.open(program.terminal, os.O_RDWR)
            for target in (STDIN, STDOUT, STDERR):
                os.dup2(terminal, target)
            if terminal > STDERR:
                os.close(terminal)
        elif program.group is not None:
            os.setpgid(0, program.group)
        for target, source in streams.items():
            if target > STDERR:
                os.dup2(source, target)
        for kind, soft in program.limits:
            resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))

    ends = [None if program.terminal else streams.get(stream) for stream in (STDIN, STDOUT, STDERR)]
    child = subprocess.Popen(
        list(program.argv),
        executable=path,
        env=dict(program.environ),
        stdin=ends[STDIN],
        stdout=ends[STDOUT],
        stderr=ends[STDERR],
        close_fds=False,
        preexec_fn=before_exec,  # noqa: PLW1509 - there are no threads
    )
    # The reactor reaps it; Popen must neither wait nor warn.
    child.returncode = 0
    return child.pid


def _later(function: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: function(*arguments)


def _enter(directory: str) -> Callable[[], None]:
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(directory)
    except OSError:
        os.close(before)
        raise

    def leave() -> None:
        try:
            os.fchdir(before)
        finally:
            os.close(before)

    return leave


@cache
def _settle_descriptors() -> None:
    """Once: let programs inherit nothing that we inherited, and no pipe get the number of a standard stream."""
    open_standard_descriptors()
    keep_to_ourselves()
