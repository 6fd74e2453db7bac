"""Removes inactive jobs, on request or by the limits of the configuration (flux-core's purge.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.message import encode_json

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.store import Batch
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.service import Request
    from pytest_flux.reactor.reactor import Reactor

UNLIMITED = -1
_BATCH_MAX = 100
_PERIOD = 2.0
"""Seconds between looks at the limits: flux-core looks at every heartbeat."""


class Purge:
    """Removes the jobs that ended first, first. ``save`` is called when the newest job id is among them."""

    def __init__(
        self, reactor: Reactor, router: Router, table: JobTable, batch: Batch, save: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._table = table
        self._batch = batch
        self._save = save
        self._age_limit: float = UNLIMITED
        self._num_limit = UNLIMITED
        self._is_armed = False

    def configure(self, config: dict[str, Any]) -> None:
        """Take over the limits in ``[job-manager]`` of a configuration that was checked."""
        table = config.get("job-manager") or {}
        age = table.get("inactive-age-limit")
        self._age_limit = UNLIMITED if age is None else parse_duration(age)
        self._num_limit = table.get("inactive-num-limit", UNLIMITED)
        self._arm()

    def _arm(self) -> None:
        if not self._is_armed and (self._age_limit != UNLIMITED or self._num_limit != UNLIMITED):
            self._is_armed = True
            self._reactor.clock.call_every(_PERIOD, self._look)

    def _look(self) -> None:
        jobs = self._eligible(self._age_limit, self._num_limit, _BATCH_MAX)
        self._remove(jobs)
        if len(jobs) == _BATCH_MAX and self._reactor.clock.is_virtual:
            # Virtual time may have passed over many looks, each of which would have removed some.
            self._reactor.call_soon(self._look)

    def _eligible(self, age_limit: float, num_limit: int, batch: int) -> list[Job]:
        now = self._reactor.clock.time()
        jobs: list[Job] = []
        left = len(self._table.inactive)
        for job in self._table.inactive.values():
            too_old = age_limit != UNLIMITED and now - job.t_inactive > age_limit
            too_many = num_limit != UNLIMITED and left > num_limit
            if len(jobs) == batch or not (too_old or too_many):
                break
            jobs.append(job)
            left -= 1
        return jobs

    def _remove(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._table.forget(job)
            self._batch.unlink(kvs_key(job.id))
            if job.id == self._table.max_jobid:
                self._save()
        if jobs:
            self._router.publish("job-purge-inactive", encode_json({"jobs": [job.id for job in jobs]}))

    def request(self, request: Request) -> None:
        """Answer ``{age_limit, num_limit, batch, force}`` with ``{count}`` of jobs removed, or removable."""
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
        """Answer ``{id, force}`` with ``{count: 1}``."""
        job_id = request.field("id", int)
        job = self._table.inactive.get(job_id)
        if job is None:
            if job_id in self._table.active:
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

        self._batch.afterwards(committed)
