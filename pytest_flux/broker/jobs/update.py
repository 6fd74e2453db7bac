"""Changes the jobspec of a submitted job (flux-core's update.c and plugins/update-*.c)."""

from __future__ import annotations

import copy
import errno
import os
from math import inf
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.limits import check_lifetime, check_limits
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58_for
from pytest_flux.protocol.job_state import CLEANUP, RUN, RUNNING
from pytest_flux.protocol.jobspec import set_path, system_attributes
from pytest_flux.protocol.resource_pool import Infeasible
from pytest_flux.protocol.severity import LOG_INFO

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.events import Events
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.queues import Queues
    from pytest_flux.broker.jobs.scheduler import Scheduler
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.service import Request
    from pytest_flux.reactor.clock import Clock

_DURATION = "attributes.system.duration"
_QUEUE = "attributes.system.queue"
_CONSTRAINTS = "attributes.system.constraints"


def _refuse(text: str) -> FluxError:
    return FluxError(errno.EINVAL, text)


def _difference(before: float, now: float) -> float:
    """How much later a job ends; 0 stands for never."""
    if not before:
        return -inf
    return now - before if now else inf


class Update:
    """Changes durations and queues; nothing else of a jobspec can be changed."""

    def __init__(
        self,
        config: dict[str, Any],
        clock: Clock,
        log: BrokerLog,
        table: JobTable,
        events: Events,
        queues: Queues,
        scheduler: Scheduler,
    ) -> None:
        self._config = config
        self._clock = clock
        self._log = log
        self._table = table
        self._events = events
        self._queues = queues
        self._scheduler = scheduler

    def follow_instance(self, before: float, now: float) -> None:
        """The resources of the instance end at another time: so do running jobs that have no duration themselves."""
        self._log.write(LOG_INFO, f"resource expiration updated to {now:.2f}", "sched-simple")
        change = f"from {before:.2f} to {now:.2f} ({_difference(before, now):+.6g})"
        self._log.write(LOG_INFO, f"resource expiration updated {change}", "job-manager")
        for job in list(self._table.active.values()):
            if job.R is None or job.state != RUN or system_attributes(job.jobspec).get("duration"):
                continue
            expiration = float(job.R["execution"].get("expiration", 0.0))
            change = f"from {expiration:.2f} to {now:.2f} ({_difference(expiration, now):+.6g})"
            text = f"updated expiration of {f58_for(job.id, os.environ)} {change}"
            self._log.write(LOG_INFO, text, "job-manager")
            self._events.post(job, "resource-update", {"expiration": now})

    def request(self, request: Request, job: Job) -> None:
        """Check and post the updates of a request. Raises FluxError, in flux-core's words, to refuse one."""
        updates = request.field("updates", dict)
        for path in updates:
            if path.split(".")[0] not in ("attributes", "resources", "tasks"):
                raise _refuse("one or more jobspec updates are invalid")
        if job.is_immutable and not request.is_owner:
            raise FluxError(errno.EPERM, "job is immutable due to previous instance owner update")
        additional: dict[str, Any] = {}
        is_validated = feasibility = False
        for path, value in updates.items():
            if path == _DURATION:
                is_validated = self._check_duration(request, job, value)
            elif path == _QUEUE:
                additional[_CONSTRAINTS] = self._check_queue(job, value)
                feasibility = True
            else:
                raise _refuse(f"update of {path} not supported")
        updates = {**updates, **additional}
        self._validate(job, updates, limits=not is_validated or bool(additional), feasibility=feasibility)
        expiration = self._expiration(job, updates)
        if is_validated and not additional and request.message.userid != job.userid:
            self._events.post(job, "set-flags", {"flags": ["immutable"]})
        self._events.post(job, "jobspec-update", updates)
        if expiration is not None:
            self._events.post(job, "resource-update", {"expiration": expiration})

    @staticmethod
    def _check_duration(request: Request, job: Job, value: object) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _refuse("plugin args unpack failed")
        if value < 0:
            raise _refuse("duration must not be negative")
        if job.state in (RUN, CLEANUP) and not request.is_owner:
            raise _refuse("duration update of running job requires instance owner privileges")
        return request.is_owner

    def _check_queue(self, job: Job, name: object) -> dict[str, Any]:
        """Return the constraints that come with the new queue."""
        if not isinstance(name, str):
            raise _refuse("plugin args unpack failed")
        if job.state in (RUN, CLEANUP):
            raise _refuse("update of queue for running job not supported")
        if job.queue == name:
            raise _refuse(f"job queue is already set to {name}")
        queue = self._queues.find(name)
        if not queue.is_enabled:
            raise _refuse(f"queue {name} is currently disabled")
        current = self._queues.find(job.queue)
        expected = {"properties": current.requires} if current.requires else {}
        if (system_attributes(job.jobspec).get("constraints") or {}) != expected:
            raise _refuse(f"job appears to have non-queue constraints, unable to update queue to {job.queue}")
        return {"properties": queue.requires} if queue.requires else {}

    def _validate(self, job: Job, updates: dict[str, Any], *, limits: bool, feasibility: bool) -> None:
        jobspec = copy.deepcopy(job.jobspec)
        for path, value in updates.items():
            set_path(jobspec, path, value)
        if limits:
            check_limits(self._config, jobspec)
            check_lifetime(self._scheduler.expiration, self._clock.time(), jobspec)
        if feasibility:
            try:
                self._scheduler.check(jobspec)
            except (Infeasible, ProtocolError) as error:
                raise FluxError(errno.EOVERFLOW, str(error)) from None

    def _expiration(self, job: Job, updates: dict[str, Any]) -> float | None:
        """Return the new end of a running job; None if it does not change."""
        if _DURATION not in updates or not job.state & RUNNING:
            return None
        duration = float(updates[_DURATION])
        if not duration:
            return 0.0
        resources = job.R
        start = resources["execution"].get("starttime", 0.0) if resources is not None else 0.0
        if start <= 0:
            raise _refuse("unable to get job starttime")
        if start + duration <= self._clock.time():
            raise _refuse("requested duration places job expiration in the past")
        return float(start + duration)
