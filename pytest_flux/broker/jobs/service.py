"""What the services of jobs have in common."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_flux.broker.service import Request, Service
from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router


class JobService(Service):
    """Base of the services of jobs."""

    def __init__(self, router: Router, log: BrokerLog, manager: JobManager) -> None:
        super().__init__(router, log)
        self.manager = manager


def authorize(request: Request, job: Job, text: str | None = None) -> None:
    """FluxError EPERM unless the instance owner asks, or the user that the job belongs to."""
    if not request.is_owner and request.message.userid != job.userid:
        raise FluxError(errno.EPERM, text)
