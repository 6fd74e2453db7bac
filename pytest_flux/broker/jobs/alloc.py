"""Between job manager and scheduler: jobs that wait, and the results of allocations (RFC 27; flux-core's alloc.c)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.events import Events, merge_annotations
from pytest_flux.broker.jobs.scheduler import Scheduler
from pytest_flux.broker.jobs.store import encode_value
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.job_state import FLAG_DEBUG, PRIORITY_MIN, SCHED
from pytest_flux.protocol.resource_pool import ResourcePool
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.queues import Queues
    from pytest_flux.broker.jobs.store import Batch
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.reactor.reactor import Reactor

_DEPTH = 8
"""How many jobs flux-core's schedulers consider at a time; here it only affects the numbers that tools show."""


class Alloc:
    """The queue of jobs in SCHED, and the scheduler."""

    def __init__(self, reactor: Reactor, table: JobTable, events: Events, batch: Batch, queues: Queues) -> None:
        self._reactor = reactor
        self._table = table
        self._events = events
        self._batch = batch
        self._queues = queues
        self.scheduler = Scheduler(reactor.clock, self._allocated, self._denied, self._annotate)
        self._is_planned = False

    @property
    def is_online(self) -> bool:
        """Whether there are resources to schedule on."""
        return self.scheduler.pool is not None

    def go_online(self, pool: ResourcePool) -> None:
        """Schedule on the resources of ``pool`` from now on. Jobs that hold resources keep them."""
        self.scheduler.pool = pool
        for job in list(self._table.active.values()):
            if job.has_resources and not job.free_posted:
                try:
                    self.scheduler.restore(job)
                except ProtocolError as error:
                    self._events.raise_exception(job, "scheduler-restart", 0, str(error))
        self.plan()

    def go_offline(self) -> None:
        """Schedule no more. Jobs keep what they have."""
        self.scheduler.go_offline()

    def enqueue(self, job: Job) -> None:
        """Queue a job in SCHED, unless it is held or its queue is stopped."""
        if (
            job.state == SCHED
            and not job.is_queued
            and job.priority != PRIORITY_MIN
            and self._queues.is_started(job.queue)
        ):
            job.is_queued = True
            self.scheduler.add(job)
            if job.is_queued and job.flags & FLAG_DEBUG:
                self._events.post(job, "debug.alloc-request")
            self.plan()

    def dequeue(self, job: Job) -> None:
        """Take a job out of the queue, if it is there."""
        if job.is_queued:
            job.is_queued = False
            self.scheduler.remove(job)
            self._clear(job)
            self.plan()

    def free(self, job: Job) -> None:
        """Take back the resources of a job."""
        self.scheduler.free(job)
        self.plan()

    def plan(self) -> None:
        """Schedule at the end of this round of the reactor, however often this is called before."""
        if not self._is_planned:
            self._is_planned = True
            self._reactor.call_soon(self._schedule)

    def _schedule(self) -> None:
        self._is_planned = False
        self.scheduler.schedule()

    def counts(self) -> dict[str, int]:
        """Return the answer to ``job-manager.alloc-query``."""
        waiting = len(self.scheduler)
        pending = min(waiting, _DEPTH) if self.is_online else 0
        return {"queue_length": waiting - pending, "alloc_pending": pending, "running": self._table.running}

    def allocated(self) -> ResourceSet:
        """Return the resources of all jobs that hold some."""
        held = ResourceSet()
        for job in self._table.active.values():
            if job.R is not None and job.has_resources and not job.free_posted:
                held = held.union(ResourceSet.decode(job.R))
        return held

    # -- the scheduler's answers

    def _allocated(self, job: Job, resources: dict[str, Any], annotations: dict[str, Any]) -> None:
        # With blanks, as flux-core's scheduler writes it: `flux job info --base` shows the text unchanged.
        self._batch.put(
            kvs_key(job.id, "R"), json.dumps(resources, ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
        resources.pop("scheduling", None)
        job.set_resources(resources, encode_value(resources))
        # Annotate while the job counts as queued, or the event would queue it again.
        self._annotate(job, annotations)
        job.is_queued = False
        self._events.post(job, "alloc", {"annotations": job.annotations})

    def _denied(self, job: Job, note: str) -> None:
        self._clear(job)
        job.is_queued = False
        self._events.raise_exception(job, "alloc", 0, note)

    def _annotate(self, job: Job, annotations: dict[str, Any]) -> None:
        merge_annotations(job, annotations)
        self._events.post(job, "annotations", {"annotations": job.annotations}, commit=False)

    def _clear(self, job: Job) -> None:
        if job.annotations and "sched" in job.annotations:
            self._annotate(job, {"sched": None})
