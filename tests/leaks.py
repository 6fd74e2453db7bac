"""A pytest plugin that fails a test which leaves something behind, and names what it left.

Processes, descriptors of the test process, ``flux-*`` directories and listening UNIX sockets are compared
before and after each test, and once more around the whole session, for what fixtures of a wider scope own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import select
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import psutil
import pytest

from pytest_flux.launcher import forkserver
from pytest_flux.plugin.run import finish_loop

TOKEN = f"PYTEST_FLUX_TEST_PROCESS_{os.getpid()}"
"""The variable by which we know our descendants after their parents are gone.

One name for each test process: the processes of an inner session carry that of the outer session too.
"""

GRACE = 5.0
"""How long, in seconds, a process that is not our child may take to end: nobody can have waited for it."""

SHARED_DIRECTORIES = ("/tmp", "/var/tmp") if os.environ.keys() & {"CI", "PYTEST_XDIST_WORKER"} == {"CI"} else ()
"""Where instances must not appear either. Looked at only where nobody else starts any at the same time.

Workers of pytest-xdist would see each other's; who controls them looks when all are done.
"""

_DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
_UNIX_SOCKETS = "/proc/net/unix"
_ACCEPTS_CONNECTIONS = 0x10000
"""Linux's __SO_ACCEPTCON, in the column "Flags" of /proc/net/unix."""

# Files of the test tools themselves, which they open when they first have something to write.
_TOOLS = re.compile(r"/\.coverage|/\.hypothesis/|/\.pytest_cache/")


class Snapshot(NamedTuple):
    """What there is at one moment, each by the name that the system knows it under."""

    processes: frozenset[int]
    descriptors: frozenset[int]
    directories: frozenset[str]
    sockets: frozenset[str]


def take_snapshot(places: tuple[str, ...]) -> Snapshot:
    """What there is now; ``places`` are the directories in which sockets are ours."""
    return Snapshot(frozenset(psutil.pids()), _open_descriptors(), _flux_directories(), _listening_sockets(places))


def find_leaks(before: Snapshot, places: tuple[str, ...]) -> list[str]:
    """One line for each thing of ours that has appeared since ``before``. Processes among them are killed."""
    leaks = _leaked_processes(before.processes)
    if _open_descriptors() - before.descriptors:
        gc.collect()  # an exception that the test caught may hold its objects in a cycle
        leaks += _leaked_descriptors(_open_descriptors() - before.descriptors)
    leaks += [f"directory {path}" for path in sorted(_flux_directories() - before.directories)]
    leaks += [f"listening socket {path}" for path in sorted(_listening_sockets(places) - before.sockets)]
    return leaks


def _leaked_processes(before: frozenset[int]) -> list[str]:
    ours = find_our_processes(pid for pid in psutil.pids() if pid not in before)
    # A child of the test process is the test's to wait for, the more distant ones end when they can.
    children = [process for process in ours if _parent(process) == os.getpid()]
    others = [process for process in ours if process not in children and not _is_spare(process, before)]
    leaked = children + wait_for_end(others, GRACE)
    # One that ends while it is looked at has ended by itself.
    leaks = [description for process in leaked if (description := _describe_process(process))]
    for process in leaked:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(children, timeout=GRACE)
    return leaks


def _is_spare(process: psutil.Process, before: frozenset[int]) -> bool:
    """Whether a broker that was there before keeps this process, which has no task, for its next job."""
    try:
        return process.name() == "flux-shell" and process.ppid() in before and not process.children()
    except psutil.Error:
        return False


def wait_for_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes that are not our children, and return those that still run after ``seconds``.

    A zombie has ended. psutil waits until it is collected too, and not every process 1 is quick at that.
    """
    deadline = time.monotonic() + seconds
    for process in processes:
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError), _opened(os.pidfd_open(process.pid)) as descriptor:
                ended = select.poll()
                ended.register(descriptor, select.POLLIN)
                ended.poll(1000 * max(0.0, deadline - time.monotonic()))
        else:
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    return [process for process in processes if process.is_running() and not _is_zombie(process)]


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find_our_processes(pids: Iterable[int]) -> list[psutil.Process]:
    """Those that descend from us: by parentage, or by the environment where the parents are gone."""
    ours: dict[int, psutil.Process] = {}
    for pid in sorted(pids):  # parents first, nearly always
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            parent = process.ppid()
            if parent == os.getpid() or parent in ours or TOKEN in process.environ():
                ours[pid] = process
    return list(ours.values())


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _describe_process(process: psutil.Process) -> str:
    try:
        command = process.name() if _is_zombie(process) else " ".join(process.cmdline())
        return f"process {process.pid} ({command}), {process.status()}, child of {process.ppid()}"
    except psutil.Error:
        return ""


def _open_descriptors() -> frozenset[int]:
    return frozenset(filter(_is_open, map(int, os.listdir(_DESCRIPTORS))))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)  # the one by which the directory was listed is closed by now
    except OSError:
        return False
    return True


def _leaked_descriptors(descriptors: Iterable[int]) -> list[str]:
    named = [(descriptor, _describe_descriptor(descriptor)) for descriptor in sorted(descriptors)]
    return [f"descriptor {descriptor} ({name})" for descriptor, name in named if not _TOOLS.search(name)]


def _describe_descriptor(descriptor: int) -> str:
    try:
        return os.readlink(f"{_DESCRIPTORS}/{descriptor}")
    except OSError:
        return stat.filemode(os.fstat(descriptor).st_mode)


def _flux_directories() -> frozenset[str]:
    found = set()
    for place in {tempfile.gettempdir(), *SHARED_DIRECTORIES}:
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("flux-") and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    found.add(entry.path)
    return frozenset(found)


_BEFORE = _flux_directories()


def _listening_sockets(places: tuple[str, ...]) -> frozenset[str]:
    """Paths of the listening sockets below ``places``, as far as the system tells."""
    if not os.path.exists(_UNIX_SOCKETS):
        return frozenset()
    prefixes = (*places, *(f"{place}/flux-" for place in SHARED_DIRECTORIES))
    found = set()
    with open(_UNIX_SOCKETS, encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(maxsplit=7)  # number, references, protocol, flags, type, state, inode, path
            if len(fields) == 8 and fields[7].startswith(prefixes) and int(fields[3], 16) & _ACCEPTS_CONNECTIONS:
                found.add(fields[7].rstrip("\n"))
    return frozenset(found)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail the session for directories that its workers have left where they cannot look."""
    yield
    leaks = sorted(_flux_directories() - _BEFORE) if session.config.getoption("numprocesses", None) else []
    if leaks:
        print("\nthe session left behind:", *leaks, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def private_tmpdir() -> Iterator[str]:
    """A TMPDIR of this session's own, short enough for sockets: what appears in it is known to be ours."""
    outer = tempfile.gettempdir()
    path = os.path.realpath(tempfile.mkdtemp(prefix="pf-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", path)
        patch.setattr(tempfile, "tempdir", path)
        # pytest keeps the files of failed tests where it always does.
        patch.setenv("PYTEST_DEBUG_TEMPROOT", os.environ.get("PYTEST_DEBUG_TEMPROOT", outer))
        patch.setenv(TOKEN, "1")
        yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def socket_places(private_tmpdir: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The directories below which a socket is ours."""
    return private_tmpdir, str(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session", autouse=True)
def no_leaks_of_the_session(socket_places: tuple[str, ...], request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the last test if the session as a whole leaves something behind."""
    # The server that instances are forked from serves the whole run: it is there before the first test, for all of
    # them to find, and the plugin ends it after the last.
    forkserver.keep()
    forkserver.current()
    before = take_snapshot(socket_places)
    yield
    finish_loop(request.config)
    _fail_for(find_leaks(before, socket_places), "the session")


@pytest.fixture(autouse=True)
def no_leaks(socket_places: tuple[str, ...], request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves something behind."""
    before = take_snapshot(socket_places)
    yield
    # The plugin stops instances while the next test runs; here that test would be blamed for them.
    finish_loop(request.config)
    _fail_for(find_leaks(before, socket_places), "the test")


def _fail_for(leaks: list[str], who: str) -> None:
    if leaks:
        pytest.fail("\n  ".join([f"{who} left behind:", *leaks]), pytrace=False)
