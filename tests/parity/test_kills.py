"""Kills at random moments: whatever is hit, and whenever, nothing of the instance is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.launcher.sessions import DEADLINE, PROMPT
from tests.parity.differences import differs
from tests.parity.instances import Engine

SEED = int(os.environ.get("PARITY_SEED", "20260813"))
TARGETS = ("flux-start", "rank 0", "another rank")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LATEST = 0.6
"""Seconds after the start: by then everything runs."""

# Every broker has a process of its own, one that has left its session, and one that was started by request.
PROGRAM = (
    "setsid sleep 1000 & flux exec -r all --noinput sh -c 'setsid sleep 1000 >/dev/null 2>&1 & exec sleep 1000' & "
    "exec sleep 1000"
)


class Kill(NamedTuple):
    target: str
    signum: signal.Signals
    moment: float

    def __str__(self) -> str:
        return f"{self.signum.name} to {self.target} after {self.moment:.3f} s"


def of_round(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark of a round in their environment."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PARITY") == mark:
                found.append(process)
    return found


def find(target: str, front: int) -> int:
    """The process id of a target; that of flux-start where there is no such broker (yet)."""
    with contextlib.suppress(psutil.Error, ValueError):
        (supervisor,) = psutil.Process(front).children()
        ranks = sorted(child.pid for child in supervisor.children())
        if target == "rank 0" and ranks:
            return ranks[0]
        if target == "another rank" and len(ranks) > 1:
            return ranks[-1]
    return front


def play(engine: Engine, kill: Kill, directory: Path) -> list[str]:
    """One round; what is left of it."""
    mark = directory.name
    environ = engine.environ({"TMPDIR": str(directory), "PARITY": mark})
    process = subprocess.Popen(
        engine.command("-s3", "--test-exit-timeout=0.3s", "sh", "-c", PROGRAM),
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(kill.moment)
    with contextlib.suppress(ProcessLookupError):
        os.kill(find(kill.target, process.pid), kill.signum)
    if kill.signum != signal.SIGKILL and not differs(engine, "signals are heard from the start"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PROMPT)
        if process.poll() is None:
            process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return [f"flux-start, which has not ended within {DEADLINE} s"]
    deadline = time.monotonic() + PROMPT
    while (left := leftovers(mark, directory)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for remaining in of_round(mark):
        with contextlib.suppress(psutil.Error):
            remaining.kill()
    if not differs(engine, "every directory is known"):
        return [thing for thing in left if not is_untold_statedir(Path(thing))]
    return left


def is_untold_statedir(path: Path) -> bool:
    """Whether this is an empty directory; if so it is removed."""
    with contextlib.suppress(OSError):
        path.rmdir()
    return path.is_absolute() and not path.exists()


def leftovers(mark: str, directory: Path) -> list[str]:
    processes = [f"process {process.pid}" for process in of_round(mark)]
    sockets = [line for line in Path("/proc/net/unix").read_text().splitlines() if f"{directory}/" in line]
    return [*processes, *sockets, *map(str, directory.iterdir())]


def kills(count: int) -> list[Kill]:
    """Every target with every signal, at moments that are random but the same each time."""
    chance = random.Random(SEED)
    pairs = [(target, signum) for target in TARGETS for signum in SIGNALS]
    chance.shuffle(pairs)
    return [Kill(*pairs[number % len(pairs)], chance.uniform(0, LATEST)) for number in range(count)]


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_is_left(engine: Engine, count: int, private_tmpdir: str) -> None:
    failures = []
    for number, kill in enumerate(kills(count)):
        directory = Path(private_tmpdir) / f"k{engine}-{count}-{number}"
        directory.mkdir()
        left = play(engine, kill, directory)
        if left:
            failures.append(f"round {number}, {kill}: {left}")
        else:
            directory.rmdir()
    assert failures == []
