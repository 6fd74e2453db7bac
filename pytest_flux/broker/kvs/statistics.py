"""Numbers about numbers, as flux-core's modules give them."""

from __future__ import annotations

import math
from typing import Any


class Statistics:
    """Count, extremes, mean and standard deviation of integers that are not kept (Welford's way)."""

    def __init__(self) -> None:
        self._count = 0
        self._least = self._most = 0
        self._mean = self._squares = 0.0

    def add(self, value: int) -> None:
        """Take one more into account."""
        self._least = min(self._least, value) if self._count else value
        self._most = max(self._most, value) if self._count else value
        self._count += 1
        distance = value - self._mean
        self._mean += distance / self._count
        self._squares += distance * (value - self._mean)

    def json(self) -> dict[str, Any]:
        """``{count, min, mean, stddev, max}``."""
        deviation = math.sqrt(self._squares / (self._count - 1)) if self._count > 1 else 0.0
        return {
            "count": self._count,
            "min": self._least,
            "mean": self._mean,
            "stddev": deviation,
            "max": self._most,
        }
