"""The kill table of whole instances: whoever is killed, nothing of it is left two seconds later.

``python -m tests.robust.test_nothing_left [ROUNDS [DIRECTORY-OF-PROGRAMS]]`` prints how many rounds of each cell left
something. The directory, with ``flux-start`` and ``pytest``, may be that of another version.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

LIMIT = 2.0
START_LIMIT = 60.0
REPORT_LIMIT = 60.0
MARK = "NOTHING_LEFT"
SEED = int(os.environ.get("ROBUST_SEED", "20261128"))
BIN = os.path.dirname(sys.executable)

KILLS = ("launcher", "supervisor", "both", "all but one", "stop, then kill")

# By now everything runs. The shell has a child, which no signal to the task itself reaches.
WORK = "sh -c 'echo ready > $FIFO; sleep 1000; true'"
JOBS = {
    "plain": f"exec flux run -n1 {WORK}",
    "setsid": "exec flux run -n1 sh -c '(setsid sleep 1000 &); setsid sleep 1000 & echo ready > $FIFO; sleep 1000'",
    "pty": f"exec flux run -n1 -o pty {WORK}",
    "flux-start": f"exec flux run -n1 flux-start --broker=embedded -s2 {WORK}",
    "alloc": f"exec flux alloc -n1 {WORK}",
    "batch": f"flux batch -n1 --output=none --wrap {WORK}; exec sleep 1000",
}
TEST = """
import pytest_flux
from pytest_flux import FluxInstance

shared = pytest_flux.flux_instance(shared=True)
WORK = "echo ready > $FIFO; setsid sleep 1000 & sleep 1000; true"

def play(instance):
    instance.submit(["sh", "-c", "setsid sleep 1000 & sleep 1000"]).wait_event("start")
    instance.run(WORK)

def test_own(flux_instance):
    play(flux_instance)

def test_shared(shared):
    play(shared)
"""
TESTS = {
    "pytest function": (1, ("-k", "own")),
    "pytest session": (1, ("-k", "own", "--flux-scope=session")),
    "pytest xdist": (2, ("-n", "2")),
}


TESTERS = ("pytest\n", "python3\n")


class Cell(NamedTuple):
    kill: str
    what: str

    def __str__(self) -> str:
        return f"{self.kill}: {self.what}"


CELLS = [Cell(kill, what) for kill in KILLS for what in (*JOBS, *TESTS)]


class Round:
    """One instance, started in a private TMPDIR and recognized by a mark in the environment of its processes."""

    def __init__(self, what: str, directory: Path, programs: str) -> None:
        self.tmpdir = directory / "t"
        self.tmpdir.mkdir()
        self.is_pytest = what in TESTS
        self.mark = f"{MARK}={os.getpid()}-{directory.name}-{random.getrandbits(48)}"
        fifo = directory / "fifo"
        os.mkfifo(fifo)
        environ = {**os.environ, "TMPDIR": str(self.tmpdir), "FIFO": str(fifo)}
        environ |= {"PATH": f"{programs}:{os.environ['PATH']}", MARK: self.mark.partition("=")[2]}
        for name in [name for name in environ if name.startswith(("FLUX_", "PYTEST_", "COV_"))]:
            del environ[name]
        if what in JOBS:
            count, command = 1, [f"{programs}/flux-start", "--broker=embedded", "-s2", "sh", "-c", JOBS[what]]
        else:
            count, options = TESTS[what]
            (directory / "test_it.py").write_text(TEST)
            (directory / "pytest.ini").write_text("[pytest]\n")
            command = [f"{programs}/pytest", "-q", f"--basetemp={directory}/b", "--flux-broker=embedded", *options]
            command += ["-p", "no:cacheprovider", "-p", "no:randomly", str(directory / "test_it.py")]
        # Open for reading and writing, so that it does not end between two writers.
        descriptor = os.open(fifo, os.O_RDWR)
        self.launcher = subprocess.Popen(
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for_lines(descriptor, count)
        finally:
            os.close(descriptor)

    def processes(self) -> dict[int, str]:
        """Names, by process id, of the processes that run."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                environ = Path(f"/proc/{name}/environ").read_bytes()
                if self.mark.encode() in environ.split(b"\0") and not is_fork_server(int(name)):
                    found[int(name)] = Path(f"/proc/{name}/comm").read_text().strip()
        return found

    def supervisors(self) -> list[int]:
        """Those of the outer instances: an inner one is none of the guards."""
        processes = self.processes()
        found = [pid for pid, name in processes.items() if name == "flux-supervisor"]
        return [pid for pid in found if not any(ancestor in found for ancestor in ancestors(pid))]

    def kill(self, how: str) -> str:
        """Kill as the cell says. Return who was left alive, for the report."""
        guards = self.supervisors()
        fronts = [parent_of(pid) for pid in guards]
        victims = {
            "launcher": [self.launcher.pid],
            "supervisor": guards,
            "both": [*guards, *fronts, self.launcher.pid],
            "stop, then kill": [self.launcher.pid],
        }
        if how == "stop, then kill":
            kill(guards, signal.SIGSTOP)
        left = ""
        if how == "all but one":
            processes = self.processes()
            survivor = random.choice(sorted(processes))
            left = processes.pop(survivor)
            victims[how] = list(processes)
        kill(victims[how], signal.SIGKILL)
        return left

    def leftovers(self) -> list[str]:
        """Wait until nothing is left, and return what is left after the limit. It is removed."""
        left = self._wait_for(self._left, LIMIT)
        # pytest and the workers of pytest-xdist are no part of the instance. They report the failure and end.
        left += self._wait_for(self._testers, REPORT_LIMIT)
        kill(list(self.processes()), signal.SIGKILL)
        self.launcher.wait(START_LIMIT)
        return left

    def _wait_for(self, find: Callable[[], list[str]], limit: float) -> list[str]:
        deadline = time.monotonic() + limit
        self.launcher.poll()
        while (found := find()) and time.monotonic() < deadline:
            time.sleep(0.02)
            self.launcher.poll()
        return found

    def _left(self) -> list[str]:
        testers = self._testers()
        names = [f"process {name}" for name in self.processes().values()]
        return [*(name for name in names if name not in testers), *os.listdir(self.tmpdir)]

    def _testers(self) -> list[str]:
        if not self.is_pytest:
            return []
        return [f"process {name}" for name in self.processes().values() if f"{name}\n" in TESTERS]


def wait_for_lines(descriptor: int, count: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    os.set_blocking(descriptor, False)
    data = b""
    while data.count(b"\n") < count:
        assert time.monotonic() < deadline, "the instance does not come up"
        try:
            data += os.read(descriptor, 100)
        except BlockingIOError:
            time.sleep(0.01)


def kill(pids: list[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def is_fork_server(pid: int) -> bool:
    """Whether this is the server itself, which ends with pytest, and not a front, which has its name."""
    parent = Path(f"/proc/{parent_of(pid)}/comm")
    return Path(f"/proc/{pid}/comm").read_text() == "flux-forkserver\n" and parent.read_text() in TESTERS


def ancestors(pid: int) -> list[int]:
    found = []
    while (pid := parent_of(pid)) > 1:
        found.append(pid)
    return found


def play(cell: Cell, place: str, programs: str = BIN) -> list[str]:
    """One round; what is left of it."""
    with tempfile.TemporaryDirectory(dir=place, prefix="r") as directory:
        instance = Round(cell.what, Path(directory), programs)
        alive = instance.kill(cell.kill)
        left = instance.leftovers()
    return [f"{thing} (survivor: {alive})" if alive else thing for thing in left]


@pytest.mark.skipif(sys.platform != "linux", reason="without /proc processes cannot be found by their environment")
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.what in ("plain", "flux-start")], ids=str)
def test_nothing_is_left(cell: Cell, private_tmpdir: str) -> None:
    assert play(cell, private_tmpdir) == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_nothing_is_left_in_500_rounds(private_tmpdir: str) -> None:
    random.seed(SEED)
    rounds = (CELLS * (500 // len(CELLS) + 1))[:500]
    left = {f"{number} {cell}": play(cell, private_tmpdir) for number, cell in enumerate(rounds)}
    assert {name: things for name, things in left.items() if things} == {}


def main() -> int:
    """Print the table."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else len(CELLS)
    programs = sys.argv[2] if len(sys.argv) > 2 else BIN
    wanted = [cell for cell in CELLS if len(sys.argv) < 4 or sys.argv[3] in str(cell)]
    counts = dict.fromkeys(wanted, (0, 0))
    with tempfile.TemporaryDirectory(prefix="n") as place, contextlib.suppress(KeyboardInterrupt):
        for number in range(total):
            cell = wanted[number % len(wanted)]
            left = play(cell, place, programs)
            if left:
                print(f"{cell}: {', '.join(left)}", flush=True)
            rounds, bad = counts[cell]
            counts[cell] = rounds + 1, bad + bool(left)
    for cell, (rounds, bad) in counts.items():
        print(f"{cell!s:40} {bad:3} of {rounds}")
    print(f"{'all':40} {sum(bad for _, bad in counts.values()):3} of {sum(rounds for rounds, _ in counts.values())}")
    return int(any(bad for _, bad in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
