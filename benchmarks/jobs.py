"""What jobs cost: our client on an embedded instance, and on a real one where Flux is present.

Run as ``python -m benchmarks.jobs [--system PATH-OF-FLUX] [--finished N]``. Both sides take turns in one run. Commits
and lookups are the business of ``benchmarks.kvs``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from pytest_flux.client import Flux
from pytest_flux.client.jobspec import from_command

_ROUNDS = 3
_AT_ONCE = 500
_PACE = 500
"""So many jobs are under way at a time while thousands are made to have finished."""


def _end_of(flux: Flux, count: int) -> None:
    """Submit so many jobs of ``true`` at once, and wait until all are inactive."""
    spec = from_command(["true"], environment={"PATH": os.environ.get("PATH", os.defpath)})
    submitted = [flux.jobs.begin_submit(spec) for _ in range(count)]
    watches = [flux.rpc("job-list.list-id", {"id": rpc.get()["id"], "attrs": [], "state": 64}) for rpc in submitted]
    for watch in watches:
        watch.get(120.0)


def rate(flux: Flux) -> None:
    """Print the jobs per second of those that are submitted at once."""
    _end_of(flux, 10)
    began = time.perf_counter()
    _end_of(flux, _AT_ONCE)
    print(_AT_ONCE / (time.perf_counter() - began))


def one(flux: Flux) -> None:
    """Print the seconds from the submission of a job to its output."""
    seconds = []
    for _ in range(21):
        began = time.perf_counter()
        assert flux.jobs.run(["echo", "x"], timeout=60.0).stdout == b"x\n"
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds))


def output(flux: Flux) -> None:
    """Print the seconds in which 10 MB of output, and 20 MB, reach the client."""
    print(*(min(_output_seconds(flux, size) for _ in range(_ROUNDS)) for size in (10_000_000, 20_000_000)))


def _output_seconds(flux: Flux, size: int) -> float:
    began = time.perf_counter()
    command = ["sh", "-c", f"yes {'x' * 99} | head -c {size}"]
    assert len(flux.jobs.run(command, timeout=120.0).stdout) == size
    return time.perf_counter() - began


def finished(flux: Flux, count: int) -> None:
    """Print memory of the broker, in bytes, and seconds of `flux jobs -a`, with a tenth of the jobs and with more."""
    broker = psutil.Process(int(flux.getattr("broker.pid")))
    _end_of(flux, 1)
    done = 0
    for goal in (0, count // 10, count // 2, count):
        while done < goal:
            _end_of(flux, min(_PACE, goal - done))
            done += min(_PACE, goal - done)
        began = time.perf_counter()
        subprocess.run(["flux", "jobs", "-ac0"], stdout=subprocess.DEVNULL, check=True)
        print(done, broker.memory_info().rss, time.perf_counter() - began)


def command(flux: Flux) -> None:
    """Print the seconds that `flux run true` takes."""
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run(["flux", "run", "true"], check=True)
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds))


INSIDE: dict[str, Callable[[Flux], None]] = {"rate": rate, "one": one, "command": command, "output": output}


class Sides:
    """Programs in a new instance each: of ours, and of a real Flux if there is one."""

    def __init__(self, flux: str | None) -> None:
        own = os.path.join(os.path.dirname(sys.executable), "flux-start")
        self.starts = {"embedded": [own, "--broker=embedded", "-s1"]}
        if flux is not None:
            self.starts["real"] = [flux, "start"]

    def run(self, side: str, *program: str) -> list[float]:
        """The figures that a program prints."""
        command = [*self.starts[side], *program]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
        return [float(word) for word in done.stdout.split()]

    def inside(self, side: str, *arguments: str) -> list[float]:
        """The figures that one of the functions above prints."""
        return self.run(side, sys.executable, "-m", "benchmarks.jobs", "--inside", *arguments)


def _verdict(name: str, ratio: float, budget: float, *, least: bool = False) -> bool:
    exceeded = ratio < budget if least else ratio > budget
    print(f"{name}: {ratio:.3g}, budget {budget:.3g}{'  OVER BUDGET' if exceeded else ''}", flush=True)
    return exceeded


def compare(sides: Sides) -> bool:
    """Rate and latency beside those of a real Flux, in turn; whether a budget is exceeded."""
    rates: dict[str, list[float]] = {side: [] for side in sides.starts}
    seconds: dict[str, list[float]] = {side: [] for side in sides.starts}
    runs: list[float] = []
    for _ in range(_ROUNDS):
        for side in sides.starts:
            rates[side] += sides.inside(side, "rate")
            seconds[side] += sides.inside(side, "one")
        if "real" in sides.starts:
            runs += sides.run("real", sys.executable, "-m", "benchmarks.jobs", "--inside", "command")
    for side in sides.starts:
        jobs, one = statistics.median(rates[side]), statistics.median(seconds[side])
        print(f"{side}: {jobs:.1f} jobs/s of {_AT_ONCE} at once, {one * 1000:.1f} ms to submit and read one")
    if not runs:
        return False
    print(f"real: {statistics.median(runs) * 1000:.0f} ms for flux run true")
    ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["embedded"], rates["real"], strict=True))
    exceeded = _verdict("rate, embedded / real", ratio, 10, least=True)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds["embedded"], runs, strict=True))
    return _verdict("one job, embedded / flux run true", ratio, 0.1) or exceeded


def main() -> int:
    """Print the table; 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM") or shutil.which("flux"))
    parser.add_argument("--finished", type=int, default=10_000, metavar="N", help="0 leaves these out")
    parser.add_argument("--inside", choices=[*INSIDE, "finished"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        with Flux() as flux:
            if arguments.inside == "finished":
                finished(flux, arguments.finished)
            else:
                INSIDE[arguments.inside](flux)
        return 0
    sides = Sides(arguments.system)
    exceeded = compare(sides)
    for side in sides.starts:
        shorter, longer = sides.inside(side, "output")
        print(f"{side}: 10 MB of output in {shorter:.2f} s, 20 MB in {longer:.2f} s")
        if side == "embedded":
            exceeded |= _verdict("20 MB / 10 MB", longer / shorter, 2.2)
    if arguments.finished:
        figures = sides.inside("embedded", "finished", "--finished", str(arguments.finished))
        for count, memory, took in zip(figures[::3], figures[1::3], figures[2::3], strict=True):
            each = f", {(memory - figures[1]) / count / 1024:.1f} KiB each" if count else ""
            print(f"{count:.0f} finished jobs: {memory / 2**20:.1f} MiB{each}; flux jobs -a in {took:.2f} s")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
