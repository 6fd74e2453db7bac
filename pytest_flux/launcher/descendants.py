"""Find and end all processes of an instance, daemons included.

A process that daemonizes leaves its group, its session and its parent, but not the tree: when its parent dies, it
becomes the child of its nearest ancestor that is a *subreaper* (prctl(2), Linux). Without subreapers (macOS), only
processes whose ancestors live are found.

Programs that a test runs beside the instance are not descendants of it. They are found by their environment
(Linux): FLUX_START_URI names the instance that they belong to, FLUX_JOB_TMPDIR the one whose job they are.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_LIMIT = 5.0
_INTERVAL = 0.002
_JOB_ROUNDS = 5

# What variables begin with in processes of an instance, and in those of its jobs, before the path of its rundir.
_OF_INSTANCE = b"FLUX_START_URI=local://"
_OF_JOB = b"FLUX_JOB_TMPDIR="


def become_subreaper() -> None:
    """Make orphaned descendants our children, if the system supports it. Children do not inherit this."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wake_with_parent() -> None:
    """Get SIGCONT when our parent dies, if the system supports it. Children do not inherit this."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def load_prctl() -> None:
    """Import what the functions above need, which takes milliseconds: once, before processes are forked."""
    if sys.platform.startswith("linux"):
        try:
            import ctypes  # noqa: F401
        except ImportError:
            # Some builds of Python have no ctypes.
            return


def _prctl(option: int, value: int) -> None:
    load_prctl()
    ctypes: Any = sys.modules.get("ctypes")
    if ctypes is not None and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants() -> list[int]:
    """Process ids of all our descendants, parents before their children."""
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        import psutil

        return [process.pid for process in psutil.Process().children(recursive=True)]
    found = _children(os.getpid())
    for pid in found:
        found += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return children


def signal_descendants(signum: int) -> None:
    """Send a signal to all our descendants, once."""
    for pid in descendants():
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def reap() -> bool:
    """Collect the children that have ended. Return whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def end_descendants(grace: float) -> bool:
    """Send SIGTERM to all our descendants; after ``grace`` seconds, do as kill_descendants."""
    if not reap():
        return True
    signal_descendants(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        if not reap():
            return True
        time.sleep(_INTERVAL)
    return kill_descendants()


def kill_descendants() -> bool:
    """Kill all our descendants, and those that they fork meanwhile. Return False if some are left after seconds.

    Processes of other users (set-uid programs), or processes that hang in the kernel, may be left.
    """
    deadline = time.monotonic() + _KILL_LIMIT
    while time.monotonic() < deadline:
        # A process may fork after we have listed it. Its orphan is our child in the next round.
        signal_descendants(signal.SIGKILL)
        if not reap():
            return True
        time.sleep(_INTERVAL)
    return False


def kill_marked(rundir: str) -> None:
    """Kill the processes whose environment names the instance in ``rundir``, and those that they fork meanwhile."""
    deadline = time.monotonic() + _KILL_LIMIT
    while _kill_once(rundir, (_OF_INSTANCE, _OF_JOB)) and time.monotonic() < deadline:
        time.sleep(_INTERVAL)


def kill_jobs(rundir: str) -> None:
    """Kill the processes of jobs of the instance in ``rundir``. They may fork meanwhile, so call it repeatedly."""
    for _ in range(_JOB_ROUNDS):
        if not _kill_once(rundir, (_OF_JOB,)):
            return


def _kill_once(rundir: str, variables: tuple[bytes, ...]) -> bool:
    """Whether there were processes to kill."""
    found = _marked(rundir, variables)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return bool(found)


def _marked(rundir: str, variables: tuple[bytes, ...]) -> list[int]:
    if not os.path.isabs(rundir) or not os.path.isdir("/proc/self"):
        return []
    marks = [variable + os.fsencode(rundir) + b"/" for variable in variables]
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environ = file.read()
        except OSError:
            # It has ended, or is another user's.
            continue
        if any(mark in environ for mark in marks):
            found.append(int(name))
    return found
