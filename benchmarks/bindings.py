"""What ``import flux`` costs with the stand-in of `pytest_flux.bindings`, beside the C module of a real Flux.

Run as ``python -m benchmarks.bindings [--system PATH-OF-FLUX]``. Both sides take turns on one embedded instance, with
the Python and the Python files of that Flux; without one, only ours is measured, with the `flux-python` that is
installed. Figures are seconds of CPU of the client, user and system, without the import.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from typing import NamedTuple

from pytest_flux import bindings

_ROUNDS = 3
_BUDGET = 1.5

_SCRIPT = """
import sys, time
import flux, flux.job
from flux.job import FluxExecutor, JobspecV1

handle = flux.Flux()
spec = JobspecV1.from_command(["true"])
spec.environment = {"PATH": "/usr/bin:/bin"}


def rpcs():
    for _ in range(300):
        handle.rpc("attr.get", {"name": "size"}).get()


def submits():
    for _ in range(60):
        flux.job.submit(handle, spec)


def executor():
    with FluxExecutor() as pool:
        futures = [pool.submit(spec) for _ in range(1000)]
        assert sum(future.result() for future in futures) == 0


handle.rpc("attr.get", {"name": "rank"}).get()
for part in (rpcs, submits, executor):
    began = time.process_time()
    part()
    print(part.__name__, time.process_time() - began, flush=True)
"""


class Side(NamedTuple):
    """A Python with Flux's Python files, and what serves below them."""

    name: str
    python: str
    path: str

    def measure(self) -> dict[str, float]:
        """Seconds of CPU by part."""
        environ = {**os.environ, "PYTHONPATH": self.path}
        command = [self.python, "-c", _SCRIPT]
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
        return {name: float(seconds) for name, seconds in map(str.split, done.stdout.splitlines())}


def find_sides(flux: str | None) -> list[Side]:
    """Ours, and the C module's if there is a real Flux."""
    if flux is None:
        bindings.check()
        return [Side("ours", sys.executable, bindings.directory())]
    ask = "import os, sys, flux; print(sys.executable); print(os.path.dirname(os.path.dirname(flux.__file__)))"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([flux, "python", "-c", ask], env=environ, stdout=subprocess.PIPE, text=True, check=True)
    python, path = done.stdout.split()
    return [Side("ours", python, f"{bindings.directory()}:{path}"), Side("C", python, path)]


def measure(sides: list[Side]) -> bool:
    """Print the table, from inside of an instance; whether the budget is exceeded."""
    rounds = [[side.measure() for side in sides] for _ in range(_ROUNDS)]
    exceeded = False
    for part in rounds[0][0]:
        medians = [statistics.median(one[index][part] for one in rounds) for index in range(len(sides))]
        words = ", ".join(f"{side.name} {median * 1000:.0f} ms" for side, median in zip(sides, medians, strict=True))
        if len(sides) > 1:
            ratio = statistics.median(one[0][part] / one[1][part] for one in rounds)
            exceeded |= ratio > _BUDGET
            words += f": {ratio:.2f}, budget {_BUDGET}{'  OVER BUDGET' if ratio > _BUDGET else ''}"
        print(f"{part}: {words}", flush=True)
    return exceeded


def main() -> int:
    """Start an instance, and measure in it; 1 if the budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM") or shutil.which("flux"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return int(measure(find_sides(arguments.system)))
    start = os.path.join(os.path.dirname(sys.executable), "flux-start")
    inside = [sys.executable, "-m", "benchmarks.bindings", "--inside"]
    if arguments.system is not None:
        inside += ["--system", arguments.system]
    return subprocess.run([start, "--broker=embedded", "-s1", *inside], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
