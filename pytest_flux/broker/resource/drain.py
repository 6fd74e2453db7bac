"""Drained ranks, which get no new jobs (RFC 44, "drain"; flux-core's resource/drain.c), and how to name ranks."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, NamedTuple

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.hostlist import decode_host_ranges, encode_hostlist, expand
from pytest_flux.protocol.idset import decode_ranges, encode_idset
from pytest_flux.protocol.limits import MAX_NODES
from pytest_flux.protocol.resource_set import ResourceSet

MODES = {None: 0, "update": 0, "overwrite": 1, "force-overwrite": 2}
"""What to do with ranks that are drained already, as ``overwrite`` in events."""


class Drained(NamedTuple):
    """When (seconds since the epoch) and why a rank was drained."""

    timestamp: float
    reason: str | None


class Drains:
    """The drained ranks."""

    def __init__(self) -> None:
        self._drained: dict[int, Drained] = {}

    def __contains__(self, rank: object) -> bool:
        return rank in self._drained

    def ranks(self) -> set[int]:
        """Return all drained ranks."""
        return set(self._drained)

    def check_drain(self, ranks: Iterable[int], excluded: Iterable[int]) -> None:
        """Raise FluxError EEXIST if a rank is drained with a reason, EINVAL if one is excluded."""
        excluded = set(excluded)
        drained = {rank for rank in ranks if rank in self._drained and self._drained[rank].reason is not None}
        refused = drained | {rank for rank in ranks if rank in excluded}
        if refused:
            how = " or ".join(
                word for word, ids in (("already drained", drained), ("excluded", excluded & refused)) if ids
            )
            raise FluxError(errno.EEXIST if drained else errno.EINVAL, f"{_name(refused)} {how}")

    def drain(self, ranks: Iterable[int], timestamp: float, reason: str | None, overwrite: int) -> None:
        """Drain ranks. An earlier reason stays if ``overwrite`` is 0, an earlier time unless it is 2."""
        for rank in ranks:
            before = self._drained.get(rank)
            if before is None or overwrite == 2:
                self._drained[rank] = Drained(timestamp, reason)
            elif overwrite or before.reason is None:
                self._drained[rank] = before._replace(reason=reason)

    def check_undrain(self, ranks: Iterable[int]) -> None:
        """Raise FluxError EEXIST if a rank is not drained."""
        others = [rank for rank in ranks if rank not in self._drained]
        if others:
            raise FluxError(errno.EEXIST, f"{_name(others)} not drained")

    def undrain(self, ranks: Iterable[int]) -> None:
        """Forget that ranks are drained."""
        for rank in ranks:
            self._drained.pop(rank, None)

    def encode(self) -> dict[str, Any]:
        """Return ``{idset: {timestamp, reason}}``; ranks drained in one second for one reason share an entry."""
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


def decode_targets(text: str, resources: ResourceSet, size: int) -> set[int]:
    """Return the ranks that an idset or hostlist names, in an instance of ``size`` brokers.

    Raises FluxError EINVAL, in flux-core's words, if the text is neither, or is empty, or out of range.
    """
    try:
        ranges = decode_ranges(text)
    except ProtocolError:
        return _ranks_of_hosts(text, resources)
    if not ranges:
        raise FluxError(errno.EINVAL, "idset is empty")
    if ranges[-1][1] >= max(size, len(resources)):
        raise FluxError(errno.EINVAL, "idset is out of range")
    return {rank for first, last in ranges for rank in range(first, last + 1)}


def _ranks_of_hosts(text: str, resources: ResourceSet) -> set[int]:
    try:
        ranges = decode_host_ranges(text)
    except ProtocolError:
        raise FluxError(errno.EINVAL, "invalid targets: Hostlist cannot be decoded") from None
    known: dict[str, set[int]] = {}
    for rank, node in resources.nodes.items():
        known.setdefault(node.hostname, set()).add(rank)
    if not ranges:
        raise FluxError(errno.EINVAL, "idset is empty")
    if sum(found.size for found in ranges) > MAX_NODES:
        raise FluxError(errno.EINVAL, f"invalid targets: invalid hosts: {text[:200]}")
    wanted = expand(ranges)
    missing = [host for host in wanted if host not in known]
    if missing:
        raise FluxError(errno.EINVAL, f"invalid targets: invalid hosts: {encode_hostlist(missing)}")
    return {rank for host in wanted for rank in known[host]}
