"""How long `flux-start` takes, against `python -c pass` and against real Flux.

Run as ``python -m benchmarks.start [--system PATH-OF-FLUX] [--rounds N]``. Without a real Flux the comparisons with
it are left out. What is measured is the `flux-start` beside the running interpreter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator

from benchmarks.pairs import Comparison, compare, with_path

_NO_SCRIPTS = ("-Sbroker.rc1_path=", "-Sbroker.rc3_path=")


def comparisons(flux_start: str, flux: str | None, rounds: int) -> Iterator[tuple[str, float, Comparison]]:
    """Name, budget as a ratio, and result of each comparison."""
    embedded = [flux_start, "--broker=embedded"]
    name = "flux-start -X -s1 true / python -c pass"
    yield name, 2.5, compare([*embedded, "-X", "-s1", "true"], [sys.executable, "-c", "pass"], 5 * rounds)
    if flux is None:
        return
    real = [flux, "start"]
    name = "flux-start -s1 true, embedded / flux start -s1 true"
    yield name, 1 / 8, compare([*embedded, "-s1", "true"], [*real, "-s1", "true"], rounds)
    name = "flux-start -s64 true, embedded / flux start -s64, empty rc1 and rc3"
    yield name, 1.0, compare([*embedded, "-s64", "true"], [*real, *_NO_SCRIPTS, "-s64", "true"], rounds)
    environ = with_path(os.path.dirname(flux))
    for size in ("-s1", "-s16"):
        name = f"flux-start {size} true, real brokers / flux start {size} true"
        ours = [flux_start, "--broker=system", size, "true"]
        yield name, 1.05, compare(ours, [*real, size, "true"], rounds, environ, environ)


def main() -> int:
    """Print the table; 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM") or shutil.which("flux"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    flux_start = os.path.join(os.path.dirname(sys.executable), "flux-start")
    exceeded = 0
    for name, budget, result in comparisons(flux_start, arguments.system, arguments.rounds):
        verdict = "" if result.ratio <= budget else "  OVER BUDGET"
        exceeded |= result.ratio > budget
        print(
            f"{name}: {result.ours:.3f} s / {result.theirs:.3f} s = {result.ratio:.2f}, budget {budget:.3g}{verdict}",
            flush=True,
        )
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
