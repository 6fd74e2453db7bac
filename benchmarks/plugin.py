"""What the plugin costs: unused, with an instance for each test, and with one for all.

Run as ``python -m benchmarks.plugin [--system PATH-OF-FLUX] [--tests N]``. Without a real Flux its rows are left out.
Times are what pytest itself reports of each test (setup, call and teardown together), at the median; of two runs that
are compared, each is repeated in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CONFTEST = """
import json, time, pytest

took = {}

@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    before = time.perf_counter()
    yield
    took[item.nodeid] = time.perf_counter() - before

def pytest_sessionfinish():
    with open("took.json", "w") as file:
        json.dump(took, file)
"""
_UNUSED = "def test(): pass\n"
_USED = """
import pytest

@pytest.mark.parametrize("number", range(TESTS))
def test(flux_instance, number):
    assert flux_instance.getattr("size") == "1"
"""


class Row(NamedTuple):
    """A measurement and what it may be at most, in seconds or as a ratio."""

    name: str
    value: float
    budget: float
    unit: str

    def __str__(self) -> str:
        factor, unit = (1000, "ms") if self.unit == "s" else (1, "")
        verdict = "" if self.value <= self.budget else "  OVER BUDGET"
        return f"{self.name}: {self.value * factor:.3g} {unit}, budget {self.budget * factor:.3g} {unit}{verdict}"


def run_pytest(directory: Path, *arguments: str, path: str | None = None) -> float:
    """How long a run takes as a whole. Raises CalledProcessError if a test fails."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    if path is not None:
        environ["PATH"] = path + os.pathsep + environ["PATH"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_it.py"]
    before = time.perf_counter()
    subprocess.run(command, cwd=directory, env=environ, check=True, capture_output=True)
    return time.perf_counter() - before


def each_test(directory: Path, tests: int, *arguments: str, path: str | None = None) -> list[float]:
    """What each test of a run takes, the first left out: it pays for what all others use."""
    (directory / "conftest.py").write_text(_CONFTEST)
    (directory / "test_it.py").write_text(_USED.replace("TESTS", str(tests)))
    run_pytest(directory, *arguments, path=path)
    took: dict[str, float] = json.loads((directory / "took.json").read_text())
    return list(took.values())[1:]


def cost_unused(directory: Path, rounds: int) -> Row:
    """One test that has nothing to do with Flux, with the plugin and without."""
    (directory / "conftest.py").write_text("")
    (directory / "test_it.py").write_text(_UNUSED)
    differences = []
    for _ in range(rounds):
        without = run_pytest(directory, "-p", "no:flux")
        differences.append(run_pytest(directory) - without)
    return Row("pytest with the plugin unused, more than without", statistics.median(differences), 0.005, "s")


def rows(directory: Path, flux: str | None, tests: int, rounds: int) -> Iterator[Row]:
    """All measurements."""
    yield cost_unused(directory, rounds)
    embedded = "--flux-broker=embedded"
    fresh = statistics.median(each_test(directory, tests, embedded))
    yield Row("a test with a fresh embedded instance", fresh, 0.060, "s")
    ready = statistics.median(each_test(directory, tests, embedded, "--flux-prestart=1"))
    yield Row("the same with --flux-prestart=1", ready, 0.060, "s")
    shared = statistics.median(each_test(directory, tests, embedded, "--flux-scope=session"))
    yield Row("a test that shares an embedded instance", shared, 0.005, "s")
    if flux is None:
        return
    path = os.path.dirname(flux)
    start = [flux, "start", "-s1", "true"]
    plain = statistics.median(_seconds(start) for _ in range(rounds))
    # Means, because two that boot side by side make every second one quick.
    shared = statistics.fmean(each_test(directory, tests, "--flux-broker=system", "--flux-scope=session", path=path))
    yield Row("a test that shares a real instance / flux start -s1", shared / plain, 1 / 20, "")
    fresh = statistics.fmean(each_test(directory, tests, "--flux-broker=system", "--flux-prestart=2", path=path))
    yield Row("a test with a fresh real instance, prestarted / flux start -s1", fresh / plain, 1 / 1.5, "")


def _seconds(command: list[str]) -> float:
    before = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - before


def main() -> int:
    """Print the table; 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM"))
    parser.add_argument("--tests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    exceeded = False
    with tempfile.TemporaryDirectory() as directory:
        for row in rows(Path(directory), arguments.system, arguments.tests, arguments.rounds):
            exceeded |= row.value > row.budget
            print(row, flush=True)
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
