"""Ranks as people name them: by idset or by hostlist."""

from __future__ import annotations

import errno

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.resource_set import ResourceSet


def decode_targets(text: str, resources: ResourceSet, size: int) -> set[int]:
    """Ranks that an idset or hostlist stands for, of an instance of ``size`` brokers.

    FluxError EINVAL, in flux-core's words, for what is neither, empty, or out of range.
    """
    try:
        ranks = set(decode_idset(text))
    except ProtocolError:
        ranks = _ranks_of_hosts(text, resources)
    if not ranks:
        raise FluxError(errno.EINVAL, "idset is empty")
    if max(ranks) >= max(size, len(resources)):
        raise FluxError(errno.EINVAL, "idset is out of range")
    return ranks


def _ranks_of_hosts(text: str, resources: ResourceSet) -> set[int]:
    try:
        wanted = decode_hostlist(text)
    except ProtocolError:
        raise FluxError(errno.EINVAL, "invalid targets: Hostlist cannot be decoded") from None
    known: dict[str, set[int]] = {}
    for rank, node in resources.nodes.items():
        known.setdefault(node.hostname, set()).add(rank)
    missing = [host for host in wanted if host not in known]
    if missing:
        raise FluxError(errno.EINVAL, f"invalid targets: invalid hosts: {encode_hostlist(missing)}")
    return {rank for host in wanted for rank in known[host]}
