"""Between job manager and scheduler: which jobs wait, and what follows from an allocation (flux-core's alloc.c)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.changes import merge_annotations
from pytest_flux.broker.jobs.scheduler import Scheduler
from pytest_flux.broker.jobs.store import encode_value
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.job_state import FLAG_DEBUG, PRIORITY_MIN, SCHED
from pytest_flux.protocol.resource_pool import ResourcePool

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager

_DEPTH = 8
"""flux-core's schedulers look at this many jobs at a time; here only numbers that tools show follow from it."""


class Alloc:
    """The queue of jobs in SCHED, and the scheduler."""

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self.scheduler = Scheduler(manager.clock, self._allocated, self._denied, self._annotate)
        self._is_planned = False

    @property
    def is_online(self) -> bool:
        """Whether there are resources to schedule on."""
        return self.scheduler.pool is not None

    def go_online(self, pool: ResourcePool) -> None:
        """There are resources now, or others than before. Jobs that hold some keep them."""
        self.scheduler.pool = pool
        for job in list(self._manager.active.values()):
            if job.has_resources and not job.free_posted:
                try:
                    self.scheduler.restore(job)
                except ProtocolError as error:
                    self._manager.raise_exception(job, "scheduler-restart", 0, str(error))
        self.plan()

    def enqueue(self, job: Job) -> None:
        """A job is in SCHED: it waits for resources, unless it is held or its queue is stopped."""
        if (
            job.state == SCHED
            and not job.is_queued
            and job.priority != PRIORITY_MIN
            and self._manager.queues.is_started(job.queue)
        ):
            job.is_queued = True
            self.scheduler.add(job)
            if job.is_queued and job.flags & FLAG_DEBUG:
                self._manager.events.post(job, "debug.alloc-request")
            self.plan()

    def dequeue(self, job: Job) -> None:
        """A job waits no longer."""
        if job.is_queued:
            job.is_queued = False
            self.scheduler.remove(job)
            self._clear(job)
            self.plan()

    def free(self, job: Job) -> None:
        """A job is through with its resources."""
        self.scheduler.free(job)
        self.plan()

    def plan(self) -> None:
        """Schedule once this round is over, whatever else changes in it."""
        if not self._is_planned:
            self._is_planned = True
            self._manager.reactor.call_soon(self._schedule)

    def _schedule(self) -> None:
        self._is_planned = False
        self.scheduler.schedule()

    def counts(self) -> dict[str, int]:
        """What ``job-manager.alloc-query`` answers."""
        waiting = len(self.scheduler)
        pending = min(waiting, _DEPTH) if self.is_online else 0
        running = self._manager.running
        return {"queue_length": waiting - pending, "alloc_pending": pending, "running": running}

    # -- what the scheduler says

    def _allocated(self, job: Job, resources: dict[str, Any], annotations: dict[str, Any]) -> None:
        # With blanks, as flux-core's scheduler writes it: `flux job info --base` shows it as it is (recorded jobs).
        self._manager.batch.put(
            kvs_key(job.id, "R"), json.dumps(resources, ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
        resources.pop("scheduling", None)
        job.set_resources(resources, encode_value(resources))
        # Still queued while it is annotated, or that event would queue it again.
        self._annotate(job, annotations)
        job.is_queued = False
        self._manager.events.post(job, "alloc", {"annotations": job.annotations})

    def _denied(self, job: Job, note: str) -> None:
        self._clear(job)
        job.is_queued = False
        self._manager.raise_exception(job, "alloc", 0, note)

    def _annotate(self, job: Job, annotations: dict[str, Any]) -> None:
        merge_annotations(job, annotations)
        self._manager.events.post(job, "annotations", {"annotations": job.annotations}, commit=False)

    def _clear(self, job: Job) -> None:
        if job.annotations and "sched" in job.annotations:
            self._annotate(job, {"sched": None})
