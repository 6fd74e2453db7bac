"""Timing two commands against each other: in turn, in one run, so that a machine that slows down slows both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Comparison(NamedTuple):
    """Medians in seconds, and the median of the ratios of the pairs."""

    ours: float
    theirs: float
    ratio: float


def run(command: Sequence[str], environ: Mapping[str, str] | None = None) -> float:
    """Seconds that a command takes from start to end. CalledProcessError if it fails."""
    started = time.perf_counter()
    subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=120)
    return time.perf_counter() - started


def compare(
    ours: Sequence[str],
    theirs: Sequence[str],
    rounds: int,
    ours_environ: Mapping[str, str] | None = None,
    theirs_environ: Mapping[str, str] | None = None,
) -> Comparison:
    """Run both once to warm up, then in turn."""
    run(ours, ours_environ)
    run(theirs, theirs_environ)
    pairs = [(run(ours, ours_environ), run(theirs, theirs_environ)) for _ in range(rounds)]
    return Comparison(
        statistics.median(pair[0] for pair in pairs),
        statistics.median(pair[1] for pair in pairs),
        statistics.median(pair[0] / pair[1] for pair in pairs),
    )


def with_path(directory: str) -> dict[str, str]:
    """Our environment, with a directory in front of PATH."""
    return {**os.environ, "PATH": f"{directory}:{os.environ.get('PATH', os.defpath)}"}
