"""`sched` and `feasibility`: what is asked of the scheduler from outside the job manager."""

from __future__ import annotations

import errno

from pytest_flux.broker.jobs.service import JobService
from pytest_flux.broker.service import ALL, Answer, Request, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.resource_pool import Infeasible


class SchedService(JobService):
    """The scheduler itself works within the job manager; nobody sends it requests."""

    name = "sched"

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ how many jobs wait."""
        return dict(self.manager.alloc.counts())


class FeasibilityService(JobService):
    """Whether a job could ever run here (RFC 27)."""

    name = "feasibility"

    @method("check", roles=ALL)
    def check(self, request: Request) -> Answer:
        """``{jobspec}`` → empty, or an error that says why not."""
        try:
            self.manager.alloc.scheduler.check(request.field("jobspec", dict))
        except Infeasible as error:
            raise FluxError(errno.EOVERFLOW, str(error)) from None
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return None
