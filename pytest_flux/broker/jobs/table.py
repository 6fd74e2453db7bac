"""All jobs of an instance, by their ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job


class JobTable:
    """``active`` is in the order of submission, ``inactive`` in the order in which the jobs ended.

    ``history`` has the ids of all jobs in the order of submission; ``running`` counts the jobs in RUN and CLEANUP.
    """

    def __init__(self) -> None:
        self.active: dict[int, Job] = {}
        self.inactive: dict[int, Job] = {}
        self.history: list[int] = []
        self.running = 0
        self.max_jobid = 0
        self.on_retire: list[Callable[[Job], None]] = []
        self.on_forget: list[Callable[[Job], None]] = []

    def find(self, job_id: int) -> Job | None:
        """Return the job with that id, active or not; None if there is none."""
        return self.active.get(job_id) or self.inactive.get(job_id)

    def find_active(self, job_id: int, errnum: int, unknown: str = "unknown job id") -> Job:
        """Return the active job with that id. Raises FluxError with ``errnum`` if there is none."""
        job = self.active.get(job_id)
        if job is None:
            raise FluxError(errnum, "job is inactive" if job_id in self.inactive else unknown)
        return job

    def admit(self, job: Job) -> None:
        """Note a job that has passed all checks. It is in ``active`` already."""
        self.history.append(job.id)
        self.max_jobid = max(self.max_jobid, job.id)

    def retire(self, job: Job) -> None:
        """Move a job to the inactive ones."""
        del self.active[job.id]
        self.add_inactive(job)

    def add_inactive(self, job: Job) -> None:
        """Add a job that has ended."""
        self.inactive[job.id] = job
        job.freeze()
        for callback in self.on_retire:
            callback(job)

    def forget(self, job: Job) -> None:
        """Drop an inactive job that is purged."""
        del self.inactive[job.id]
        if job.id in self.history:
            self.history.remove(job.id)
        for callback in self.on_forget:
            callback(job)
