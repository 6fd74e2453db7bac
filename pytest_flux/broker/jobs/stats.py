"""How many jobs there are, in which states and with which results, per queue and altogether (flux-core's stats.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.job_state import CANCELED, COMPLETED, FAILED, INACTIVE, NEW, STATES, TIMEOUT

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager

_RESULTS = {COMPLETED: "successful", FAILED: "failed", CANCELED: "canceled", TIMEOUT: "timeout"}


class Stats:
    """Inactive jobs are counted as they come and go, active ones when somebody asks: they are few."""

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._results: dict[str | None, dict[int, int]] = {}
        self._purged: dict[str | None, int] = {}
        manager.on_retire.append(lambda job: self._count(job, 1))
        manager.on_forget.append(self._forget)

    def _count(self, job: Job, by: int) -> None:
        for queue in {None, job.facts.queue}:
            results = self._results.setdefault(queue, dict.fromkeys(_RESULTS, 0))
            results[job.result] += by

    def _forget(self, job: Job) -> None:
        self._count(job, -1)
        for queue in {None, job.facts.queue}:
            self._purged[queue] = self._purged.get(queue, 0) + 1

    def answer(self) -> dict[str, Any]:
        """What ``job-list.job-stats`` answers."""
        jobs = list(self._manager.active.values())
        named = dict.fromkeys(self._manager.queues.names)
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
