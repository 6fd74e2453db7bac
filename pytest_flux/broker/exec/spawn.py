"""Starting a task's process, fast: thousands of short ones are what tests are made of.

``posix_spawn`` costs a fraction of what a fork of a broker does. What it cannot do for the child (directory, limits,
cores), the broker does to itself for that moment: it has one thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Limits = Sequence[tuple[int, int]]
"""Resources (as of :mod:`resource`) and their soft limits."""

# These would strike the broker itself, were it to take them on for a moment.
_DANGEROUS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK")
    if hasattr(resource, name)
)

# Python ignores these, and a program would inherit that.
_DEFAULT_SIGNALS = tuple(getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name))


class Program(NamedTuple):
    """What is to run. ``cpus`` are those it may run on, None for all.

    ``bind_first`` has it find itself bound, however soon it looks: that moves the broker from one cpu to another and
    back. Otherwise it is bound while it is loaded. ``terminal`` is the path of its controlling terminal, which is
    then its three streams.
    """

    argv: Sequence[str]
    environ: Mapping[str, str]
    cwd: str
    limits: Limits = ()
    cpus: frozenset[int] | None = None
    group: bool = True
    bind_first: bool = False
    terminal: str | None = None


def find_program(name: str, environ: Mapping[str, str], cwd: str) -> str:
    """Where execvp(3) would find a program. FileNotFoundError or PermissionError."""
    if "/" in name:
        return name
    refused = False
    for directory in environ.get("PATH", "/bin:/usr/bin").split(":"):
        path = os.path.join(directory, name) if directory else f"./{name}"
        try:
            mode = os.stat(path if path.startswith("/") else os.path.join(cwd, path)).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return path
        refused = refused or stat.S_ISREG(mode)
    number = errno.EACCES if refused else errno.ENOENT
    raise OSError(number, os.strerror(number), name)


def spawn(program: Program, stdin: int, stdout: int, stderr: int, inherited: int = -1) -> int:
    """Start a program and return its process id. Raises OSError where it cannot be run.

    ``inherited`` is a further descriptor that it gets, under the same number.
    """
    path = find_program(program.argv[0], program.environ, program.cwd)
    if any(kind in _DANGEROUS for kind, _ in program.limits):
        return _fork(path, program, (stdin, stdout, stderr), inherited)
    restore = [_enter(program.cwd)]
    try:
        for kind, soft in program.limits:
            before = resource.getrlimit(kind)
            resource.setrlimit(kind, (soft, before[1]))
            restore.append(_call(resource.setrlimit, kind, before))
        if program.cpus is not None and program.bind_first:
            restore.append(_call(os.sched_setaffinity, 0, os.sched_getaffinity(0)))
            os.sched_setaffinity(0, program.cpus)
        if inherited >= 0:
            os.set_inheritable(inherited, True)
        pid = _posix_spawn(path, program, (stdin, stdout, stderr))
        if program.cpus is not None and not program.bind_first:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, program.cpus)
        return pid
    finally:
        for undo in reversed(restore):
            undo()


def _call(function: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: function(*arguments)


def _enter(directory: str) -> Callable[[], None]:
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(directory)
    except OSError:
        os.close(home)
        raise

    def leave() -> None:
        os.fchdir(home)
        os.close(home)

    return leave


def _posix_spawn(path: str, program: Program, streams: tuple[int, int, int]) -> int:
    actions: list[tuple[Any, ...]]
    if program.terminal is not None:
        # The first terminal that the leader of a session opens becomes its own.
        actions = [(os.POSIX_SPAWN_OPEN, 0, program.terminal, os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, 0, target) for target in (1, 2)]
        group: dict[str, Any] = {"setsid": True}
    else:
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(streams)]
        group = {"setpgroup": 0} if program.group else {}
    for executable, argv in ((path, list(program.argv)), ("/bin/sh", ["sh", path, *program.argv[1:]])):
        try:
            return os.posix_spawn(
                executable,
                argv,
                program.environ,
                file_actions=actions,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
                **group,
            )
        except OSError as error:
            # As execvp(3): what has no "#!" is a shell script.
            if error.errno != errno.ENOEXEC or executable != path:
                raise
    raise AssertionError("unreachable")


def _fork(path: str, program: Program, streams: tuple[int, int, int], inherited: int) -> int:
    import subprocess

    def before_exec() -> None:
        if program.terminal is not None:
            os.setsid()
            terminal = os.open(program.terminal, os.O_RDWR)
            for target in range(3):
                os.dup2(terminal, target)
            if terminal > 2:
                os.close(terminal)
        elif program.group:
            os.setpgid(0, 0)
        if program.cpus is not None:
            os.sched_setaffinity(0, program.cpus)
        for kind, soft in program.limits:
            resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))

    child = subprocess.Popen(
        list(program.argv),
        executable=path,
        env=dict(program.environ),
        cwd=program.cwd,
        stdin=None if program.terminal else streams[0],
        stdout=None if program.terminal else streams[1],
        stderr=None if program.terminal else streams[2],
        pass_fds=(inherited,) if inherited >= 0 else (),
        preexec_fn=before_exec,  # noqa: PLW1509 - there are no threads
    )
    # The reactor reaps it; Popen must neither wait nor warn.
    child.returncode = 0
    return child.pid
