"""What job-list shows: chosen attributes of a job (flux-core's job_util.c), and statistics of all (stats.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import (
    CANCELED,
    CLEANUP,
    COMPLETED,
    DEPEND,
    FAILED,
    INACTIVE,
    NEW,
    RUN,
    SCHED,
    STATES,
    TIMEOUT,
)

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.queues import Queues
    from pytest_flux.broker.jobs.table import JobTable

Reader = Callable[["Job"], Any]

_RESULTS = {COMPLETED: "successful", FAILED: "failed", CANCELED: "canceled", TIMEOUT: "timeout"}


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
"""In flux-core's order."""


def readers(attributes: object) -> list[tuple[str, Reader]]:
    """Return a reader for each attribute. Raises FluxError EINVAL for an unknown one, EPROTO if there is no list."""
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
    """Return a job's id, and its values of the chosen attributes if it has them."""
    described: dict[str, Any] = {"id": job.id}
    for name, read in chosen:
        value = read(job)
        if value is not None:
            described[name] = value
    return described


class Stats:
    """How many jobs there are in each state and with each result, in each queue and in all (flux-core's stats.c).

    Inactive jobs are counted as they come and go; active jobs, which are few, on each request.
    """

    def __init__(self, table: JobTable, queues: Queues) -> None:
        self._table = table
        self._queues = queues
        self._results: dict[str | None, dict[int, int]] = {}
        self._purged: dict[str | None, int] = {}
        table.on_retire.append(lambda job: self._count(job, 1))
        table.on_forget.append(self._forget)

    def _count(self, job: Job, by: int) -> None:
        for queue in {None, job.facts.queue}:
            results = self._results.setdefault(queue, dict.fromkeys(_RESULTS, 0))
            results[job.result] += by

    def _forget(self, job: Job) -> None:
        self._count(job, -1)
        for queue in {None, job.facts.queue}:
            self._purged[queue] = self._purged.get(queue, 0) + 1

    def answer(self) -> dict[str, Any]:
        """Return the answer to ``job-list.job-stats``."""
        jobs = list(self._table.active.values())
        named = dict.fromkeys(self._queues.names)
        named.update(dict.fromkeys(queue for queue in self._results if queue is not None))
        named.update(dict.fromkeys(queue for job in jobs if (queue := job.facts.queue) is not None))
        queues = []
        for name in named:
            within = [job for job in jobs if job.facts.queue == name]
            queues.append({**self._encode(name, within), "name": name})
        return {**self._encode(None, jobs), "queues": queues}

    def _encode(self, queue: str | None, jobs: list[Job]) -> dict[str, Any]:
        states = dict.fromkeys(STATES.values(), 0)
        for job in jobs:
            states[job.state] += 1
        results = self._results.get(queue, dict.fromkeys(_RESULTS, 0))
        states[INACTIVE] = sum(results.values())
        named = {name.lower(): states[state] for name, state in STATES.items() if state != NEW}
        return {
            "job_states": {**named, "total": sum(named.values())},
            **{name: results[result] for result, name in _RESULTS.items()},
            "inactive_purged": self._purged.get(queue, 0),
        }
