"""Requests that wait for jobs: ``wait``, ``drain``, ``idle`` (flux-core's wait.c and drain.c)."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from pytest_flux.broker.jobs.job import JOBID_ANY
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import FLAG_WAITABLE, RUNNING
from pytest_flux.protocol.wait_status import describe_failure, exit_code

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.alloc import Alloc
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.store import Batch
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.broker.service import Request


class Waits:
    """Each waitable job is handed out once, in the order in which the jobs end. ``zombies`` have not been yet."""

    def __init__(self, table: JobTable, batch: Batch, alloc: Alloc) -> None:
        self._table = table
        self._batch = batch
        self._alloc = alloc
        self.zombies: dict[int, Job] = {}
        self._anybody: deque[Request] = deque()
        self._waiters = 0
        self._waitables = 0
        self._drains: list[Request] = []
        self._idles: list[Request] = []

    def activated(self, job: Job) -> None:
        """Note that a job has become active."""
        if job.flags & FLAG_WAITABLE:
            self._waitables += 1

    def retired(self, job: Job) -> None:
        """Note that a job has become inactive."""
        if job.flags & FLAG_WAITABLE:
            self._waitables -= 1
            if job.waiter is not None:
                self._respond(job.waiter, job)
                job.waiter = None
                self._waiters -= 1
            elif self._anybody:
                self._respond(self._anybody.popleft(), job)
            else:
                self.zombies[job.id] = job
        self.check()

    def wait(self, request: Request, job_id: int) -> None:
        """Answer when the job, or any job for JOBID_ANY, has ended. Raises FluxError ECHILD if no job can."""
        if job_id in (JOBID_ANY, -1):
            if self.zombies:
                self._respond(request, self.zombies.pop(next(iter(self.zombies))))
                return
            self._anybody.append(request)
        elif job_id in self.zombies:
            self._respond(request, self.zombies.pop(job_id))
            return
        else:
            self._wait_for(request, job_id)
            return
        if len(self._anybody) + self._waiters > self._waitables:
            self._anybody.pop().error(errno.ECHILD, "there are no more waitable jobs")

    def _wait_for(self, request: Request, job_id: int) -> None:
        job = self._table.active.get(job_id)
        if job is None:
            raise FluxError(errno.ECHILD, "invalid job id, or job may be inactive and not waitable")
        if job.waiter is not None:
            raise FluxError(errno.ECHILD, "job id already has a waiter")
        if not job.flags & FLAG_WAITABLE:
            raise FluxError(errno.ECHILD, "job was not submitted with FLUX_JOB_WAITABLE")
        job.waiter = request
        self._waiters += 1

    @staticmethod
    def _respond(request: Request, job: Job) -> None:
        if job.ended_by_exception:
            text = f"Fatal exception type={job.exception_type} {job.exception_note}"
            request.respond({"id": job.id, "success": False, "errstr": text})
            return
        status = job.wait_status
        request.respond({"id": job.id, "success": exit_code(status) == 0, "errstr": describe_failure(status)})

    def forget(self, sender: str) -> None:
        """Drop the requests of a client that is gone."""
        self._anybody = deque(request for request in self._anybody if request.sender != sender)
        self._drains = [request for request in self._drains if request.sender != sender]
        self._idles = [request for request in self._idles if request.sender != sender]
        if not self._waiters:
            return
        for job in self._table.active.values():
            if job.waiter is not None and job.waiter.sender == sender:
                job.waiter = None
                self._waiters -= 1

    def drain(self, request: Request) -> None:
        """Answer once no job is active."""
        self._drains.append(request)
        self.check()

    def idle(self, request: Request) -> None:
        """Answer once no job runs."""
        self._idles.append(request)
        self.check()

    def check(self) -> None:
        """Answer the requests that wait for no active or no running jobs, if that is so now."""
        if not self._drains and not self._idles:
            return
        if not self._table.active:
            answered, self._drains = self._drains, []
            for request in answered:
                self._batch.afterwards(lambda _, request=request: request.respond())  # type: ignore[misc]
        if not self._table.running and not self._alloc.counts()["alloc_pending"]:
            pending = sum(not job.state & RUNNING for job in self._table.active.values())
            answered, self._idles = self._idles, []
            for request in answered:
                answer = {"pending": pending}
                self._batch.afterwards(
                    lambda _, request=request, answer=answer: request.respond(answer)  # type: ignore[misc]
                )
