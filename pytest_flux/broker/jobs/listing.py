"""A job as job-list shows it: the attributes that were asked for, where there are any (flux-core's job_util.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import CLEANUP, DEPEND, INACTIVE, RUN, SCHED

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job

Reader = Callable[["Job"], Any]


def _once(state: int, name: str) -> Reader:
    return lambda job: getattr(job, name) if job.states_mask & state else None


def _set(name: str) -> Reader:
    return lambda job: getattr(job, name) or None


def _fact(name: str) -> Reader:
    return lambda job: getattr(job.facts, name)


def _allocated(name: str) -> Reader:
    return lambda job: getattr(job.facts, name) if job.states_mask & RUN else None


def _failure(name: str) -> Reader:
    def read(job: Job) -> Any:  # noqa: ANN401
        return getattr(job, name) if job.state == INACTIVE and job.exception_type is not None else None

    return read


_READERS: dict[str, Reader] = {
    "userid": lambda job: job.userid,
    "urgency": lambda job: job.urgency,
    "priority": _once(SCHED, "priority"),
    "t_submit": lambda job: job.t_submit,
    "t_depend": _once(DEPEND, "t_depend"),
    "t_priority": _set("t_priority"),
    "t_sched": _set("t_sched"),
    "t_run": _once(RUN, "t_run"),
    "t_cleanup": _once(CLEANUP, "t_cleanup"),
    "t_inactive": _once(INACTIVE, "t_inactive"),
    "state": lambda job: job.state,
    "name": _fact("name"),
    "cwd": _fact("cwd"),
    "queue": _fact("queue"),
    "project": _fact("project"),
    "bank": _fact("bank"),
    "ntasks": _fact("ntasks"),
    "ncores": _fact("ncores"),
    "duration": _fact("duration"),
    "nnodes": _fact("nnodes"),
    "ranks": _allocated("ranks"),
    "nodelist": _allocated("nodelist"),
    "success": _once(INACTIVE, "succeeded"),
    "exception_occurred": lambda job: job.exception_type is not None if job.state == INACTIVE else None,
    "exception_type": _failure("exception_type"),
    "exception_severity": _failure("exception_severity"),
    "exception_note": _failure("exception_note"),
    "result": _once(INACTIVE, "result"),
    "expiration": _allocated("expiration"),
    "annotations": _set("annotations"),
    "waitstatus": lambda job: job.wait_status if job.wait_status >= 0 else None,
    "dependencies": lambda job: list(job.dependencies) if job.had_dependencies else None,
}

ATTRIBUTES = tuple(_READERS)
"""In the order in which flux-core names them."""


def readers(attributes: object) -> list[tuple[str, Reader]]:
    """What to read for a list of attributes. FluxError EINVAL for what is none, EPROTO for no list."""
    if not isinstance(attributes, list):
        raise FluxError(errno.EPROTO, "invalid payload: attrs must be an array")
    chosen: dict[str, Reader] = {}
    for name in attributes:
        if not isinstance(name, str):
            raise FluxError(errno.EINVAL, "attr has no string value")
        if name == "all":
            chosen.update(_READERS)
        elif name in _READERS:
            chosen[name] = _READERS[name]
        else:
            raise FluxError(errno.EINVAL, f"{name[:80]} is not a valid attribute")
    return list(chosen.items())


def describe(job: Job, chosen: list[tuple[str, Reader]]) -> dict[str, Any]:
    """A job's id, and those of the chosen attributes that it has."""
    described: dict[str, Any] = {"id": job.id}
    for name, read in chosen:
        value = read(job)
        if value is not None:
            described[name] = value
    return described
