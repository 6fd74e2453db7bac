"""Removing inactive jobs, by request or by the limits of the configuration (flux-core's purge.c)."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import kvs_key

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.service import Request

UNLIMITED = -1
_BATCH_MAX = 100
_PERIOD = 2.0
"""Seconds between looks at the limits: flux-core looks at every heartbeat."""


class Purge:
    """Inactive jobs, oldest first."""

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._age_limit: float = UNLIMITED
        self._num_limit = UNLIMITED
        self._is_armed = False

    def configure(self, config: dict[str, Any]) -> None:
        """Take over ``[job-manager]``. FluxError EINVAL for what is no limit."""
        table = config.get("job-manager") or {}
        age, number = table.get("inactive-age-limit"), table.get("inactive-num-limit", UNLIMITED)
        try:
            age_limit = UNLIMITED if age is None else parse_duration(age)
        except (ProtocolError, TypeError):
            raise FluxError(errno.EINVAL, "job-manager.inactive-age-limit: invalid FSD") from None
        if not isinstance(number, int) or (number < 0 and number != UNLIMITED):
            raise FluxError(errno.EINVAL, "job-manager.inactive-num-limit: must be >= 0")
        self._age_limit, self._num_limit = age_limit, number
        self._arm()

    def _arm(self) -> None:
        if not self._is_armed and (self._age_limit != UNLIMITED or self._num_limit != UNLIMITED):
            self._is_armed = True
            self._manager.reactor.call_later(_PERIOD, self._look)

    def _look(self) -> None:
        self._is_armed = False
        self._remove(self._eligible(self._age_limit, self._num_limit, _BATCH_MAX))
        self._arm()

    def _eligible(self, age_limit: float, num_limit: int, batch: int) -> list[Job]:
        now = self._manager.clock.time()
        jobs: list[Job] = []
        left = len(self._manager.inactive)
        for job in self._manager.inactive.values():
            too_old = age_limit != UNLIMITED and now - job.t_inactive > age_limit
            too_many = num_limit != UNLIMITED and left > num_limit
            if len(jobs) == batch or not (too_old or too_many):
                break
            jobs.append(job)
            left -= 1
        return jobs

    def _remove(self, jobs: list[Job]) -> None:
        manager = self._manager
        for job in jobs:
            del manager.inactive[job.id]
            manager.forget(job)
            manager.batch.unlink(kvs_key(job.id))
            if job.id == manager.max_jobid:
                manager.save()
        if jobs:
            payload = json.dumps({"jobs": [job.id for job in jobs]}).encode() + b"\0"
            manager.router.publish("job-purge-inactive", payload)

    def request(self, request: Request) -> None:
        """``{age_limit, num_limit, batch, force}`` → ``{count}``: of jobs removed, or that would be."""
        age_limit, num_limit = request.field("age_limit", float), request.field("num_limit", int)
        batch, force = request.field("batch", int), bool(request.json().get("force"))
        if age_limit != UNLIMITED and age_limit < 0:
            raise FluxError(errno.EINVAL, "if set, age limit must be >= 0")
        if num_limit != UNLIMITED and num_limit < 0:
            raise FluxError(errno.EINVAL, "if set, num limit must be >= 0")
        if not 1 <= batch <= _BATCH_MAX:
            raise FluxError(errno.EINVAL, f"batch must be >= 1 and <= {_BATCH_MAX}")
        jobs = self._eligible(age_limit, num_limit, batch if force else -1)
        self._answer(request, jobs, force=force)

    def request_id(self, request: Request) -> None:
        """``{id, force}`` → ``{count: 1}``."""
        job_id = request.field("id", int)
        job = self._manager.inactive.get(job_id)
        if job is None:
            if job_id in self._manager.active:
                raise FluxError(errno.EINVAL, "cannot purge active job")
            raise FluxError(errno.ENOENT, "id not found")
        self._answer(request, [job], force=bool(request.json().get("force")))

    def _answer(self, request: Request, jobs: list[Job], *, force: bool) -> None:
        answer = {"count": len(jobs)}
        if not force or not jobs:
            request.respond(answer)
            return
        self._remove(jobs)

        def committed(errnum: int) -> None:
            if errnum:
                request.error(errnum)
            else:
                request.respond(answer)

        self._manager.batch.afterwards(committed)
