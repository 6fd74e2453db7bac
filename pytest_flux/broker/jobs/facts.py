"""What job-list shows of a job's jobspec and R, read as in flux-core's job-list/job_data.c."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, NamedTuple

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_host_ranges, encode_hostlist, expand
from pytest_flux.protocol.idset import decode_ranges, encode_ranges, merge_ranges
from pytest_flux.protocol.jobspec import Counts, jobspec_counts, system_attributes
from pytest_flux.protocol.limits import MAX_NODES

_INT_END = 1 << 31


class Facts(NamedTuple):
    """What is not known, or not yet, is None."""

    name: str | None = None
    cwd: str | None = None
    queue: str | None = None
    project: str | None = None
    bank: str | None = None
    ntasks: int | None = None
    ncores: int | None = None
    duration: float | None = None
    nnodes: int | None = None
    ranks: str | None = None
    nodelist: str | None = None
    expiration: float | None = None


def job_facts(jobspec: dict[str, Any], resources: dict[str, Any] | None) -> Facts:
    """Read the facts of a job. Senseless parts are left out."""
    facts = _from_jobspec(jobspec)
    if resources is None:
        return facts
    try:
        return _with_resources(facts, jobspec, resources)
    except (ProtocolError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return facts


def bracketed(idset: str) -> str:
    """Return an idset as flux-core shows it: in brackets unless it is a single number."""
    return idset if idset.isdigit() or not idset else f"[{idset}]"


def _from_jobspec(jobspec: dict[str, Any]) -> Facts:
    system = system_attributes(jobspec)

    def text(key: str) -> str | None:
        value = system.get(key)
        # Hundreds of jobs share these texts.
        return sys.intern(value) if isinstance(value, str) else None

    facts = Facts(
        name=_name(jobspec, system),
        cwd=text("cwd"),
        queue=text("queue"),
        project=text("project"),
        bank=text("bank"),
    )
    try:
        counts = jobspec_counts(jobspec)
        exclusive = counts.nnodes and counts.exclusive
        return facts._replace(
            duration=counts.duration,
            nnodes=_number(counts.nnodes) or None,
            ntasks=_number(_tasks(jobspec, counts, counts.nnodes or None, None)),
            ncores=None if exclusive else _number(counts.nslots * counts.cores_per_slot),
        )
    except (ProtocolError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return facts


def _name(jobspec: dict[str, Any], system: dict[str, Any]) -> str | None:
    job = system.get("job")
    if isinstance(job, dict) and isinstance(job.get("name"), str):
        return sys.intern(job["name"])
    try:
        command = jobspec["tasks"][0]["command"][0]
    except (KeyError, IndexError, TypeError):
        return None
    if not isinstance(command, str):
        return None
    return sys.intern(command.rpartition("/")[2] or command)


def _tasks(jobspec: dict[str, Any], counts: Counts, nnodes: int | None, ncores: int | None) -> int | None:
    options = system_attributes(jobspec).get("shell", {}).get("options", {})
    per_resource = options.get("per-resource") if isinstance(options, dict) else None
    if isinstance(per_resource, dict):
        count = per_resource.get("count", 1)
        if per_resource.get("type") == "node":
            return nnodes * count if nnodes else None
        if per_resource.get("type") == "core":
            if counts.nnodes:
                return ncores * count if ncores else None
            return counts.nslots * counts.cores_per_slot * int(count)
    total = jobspec["tasks"][0]["count"].get("total")
    return total if isinstance(total, int) else counts.nslots


def _with_resources(facts: Facts, jobspec: dict[str, Any], resources: dict[str, Any]) -> Facts:
    execution = resources["execution"]
    where = _where(
        tuple((entry["rank"], entry["children"].get("core", "")) for entry in execution["R_lite"]),
        tuple(execution["nodelist"]),
    )
    return facts._replace(
        ranks=where.ranks,
        nodelist=where.nodelist,
        nnodes=where.nnodes,
        ncores=where.ncores,
        ntasks=_number(_tasks(jobspec, jobspec_counts(jobspec), where.nnodes, where.ncores)),
        expiration=float(execution.get("expiration", 0.0)),
    )


def _number(value: int | None) -> int | None:
    """The number, or None if it does not fit into a C int: clients of flux-core could not read it."""
    return value if value is not None and abs(value) < _INT_END else None


class _Where(NamedTuple):
    ranks: str
    nodelist: str
    nnodes: int
    ncores: int


@lru_cache(maxsize=256)
def _where(groups: tuple[tuple[str, str], ...], nodelist: tuple[str, ...]) -> _Where:
    """Return ranks and nodes in job-list's format. Cached, as many jobs run in the same place."""
    ranges: list[tuple[int, int]] = []
    nnodes = ncores = 0
    for rank, cores in groups:
        here = decode_ranges(rank)
        count = sum(last - first + 1 for first, last in here)
        nnodes += count
        ncores += count * sum(last - first + 1 for first, last in decode_ranges(cores))
        ranges += here
    hosts = expand([found for text in nodelist for found in decode_host_ranges(text)], limit=MAX_NODES)
    ranks = bracketed(encode_ranges(merge_ranges(ranges)))
    return _Where(sys.intern(ranks), sys.intern(encode_hostlist(hosts)), nnodes, ncores)
