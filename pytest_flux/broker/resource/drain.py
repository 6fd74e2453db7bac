"""Drained ranks: whose running jobs go on, and that get no others (flux-core's modules/resource/drain.c)."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, NamedTuple

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.idset import encode_idset

MODES = {None: 0, "update": 0, "overwrite": 1, "force-overwrite": 2}
"""How to treat ranks that are drained already; the numbers are those of ``overwrite`` in events."""


class Drained(NamedTuple):
    """Since when (seconds since the epoch) and why a rank is drained."""

    timestamp: float
    reason: str | None


class Drains:
    """Which ranks are drained."""

    def __init__(self) -> None:
        self._drained: dict[int, Drained] = {}

    def __contains__(self, rank: object) -> bool:
        return rank in self._drained

    def ranks(self) -> set[int]:
        """All of them."""
        return set(self._drained)

    def check_drain(self, ranks: Iterable[int], excluded: Iterable[int]) -> None:
        """FluxError EEXIST or EINVAL where some are drained, with a reason, or excluded."""
        excluded = set(excluded)
        drained = {rank for rank in ranks if rank in self._drained and self._drained[rank].reason is not None}
        refused = drained | {rank for rank in ranks if rank in excluded}
        if refused:
            how = " or ".join(
                word for word, ids in (("already drained", drained), ("excluded", excluded & refused)) if ids
            )
            raise FluxError(errno.EEXIST if drained else errno.EINVAL, f"{_name(refused)} {how}")

    def drain(self, ranks: Iterable[int], timestamp: float, reason: str | None, overwrite: int) -> None:
        """Drain ranks. A reason that is there stays unless ``overwrite`` is set, and the time unless that is 2."""
        for rank in ranks:
            before = self._drained.get(rank)
            if before is None or overwrite == 2:
                self._drained[rank] = Drained(timestamp, reason)
            elif overwrite or before.reason is None:
                self._drained[rank] = before._replace(reason=reason)

    def check_undrain(self, ranks: Iterable[int]) -> None:
        """FluxError EEXIST where some are not drained."""
        others = [rank for rank in ranks if rank not in self._drained]
        if others:
            raise FluxError(errno.EEXIST, f"{_name(others)} not drained")

    def undrain(self, ranks: Iterable[int]) -> None:
        """Drain these no longer."""
        for rank in ranks:
            self._drained.pop(rank, None)

    def encode(self) -> dict[str, Any]:
        """``{idset: {timestamp, reason}}``: ranks drained in one second for one reason go together."""
        groups: dict[tuple[float, str], list[int]] = {}
        for rank in sorted(self._drained):
            timestamp, reason = self._drained[rank]
            groups.setdefault((float(round(timestamp)), reason or ""), []).append(rank)
        return {
            encode_idset(ranks): {"timestamp": timestamp, "reason": reason}
            for (timestamp, reason), ranks in groups.items()
        }


def _name(ranks: Iterable[int]) -> str:
    ids = set(ranks)
    return f"rank{'s' if len(ids) > 1 else ''} {encode_idset(ids)}"
