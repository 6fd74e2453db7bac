"""`sched` and `feasibility`: requests to the scheduler from outside the job manager."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.config_tables import QUEUE_POLICIES
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.resource_pool import Infeasible

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.alloc import Alloc
    from pytest_flux.broker.jobs.scheduler import Scheduler
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.modules import Arguments
    from pytest_flux.broker.router import Router


def check_depth(arguments: Arguments) -> None:
    """Check the arguments of the module sched-simple. FluxError EINVAL.

    In flux-core, ``mode`` says how many jobs the job manager lets the scheduler see at a time, which has no meaning
    where both are one. ``queue-depth`` bounds a pass of the scheduler. ``queue-policy`` is ours.
    """
    policy = arguments.get("queue-policy", QUEUE_POLICIES[0])
    if policy not in QUEUE_POLICIES:
        expected = ", ".join(QUEUE_POLICIES)
        raise FluxError(errno.EINVAL, f"queue-policy={policy!r} is invalid: must be one of {expected}")
    mode = arguments.get("mode", "unlimited")
    depth = arguments.get("queue-depth", "unlimited")
    if mode != "unlimited":
        kind, _, number = mode.partition("=")
        depth = number if kind == "limited" else "?"
    if depth != "unlimited" and not (depth.isdecimal() and int(depth) > 0):
        raise FluxError(errno.EINVAL, f"queue-depth={depth!r} is invalid: must be a positive integer or 'unlimited'")


class SchedService(Service):
    """Statistics only: the job manager calls the scheduler directly (RFC 27 has messages for that)."""

    name = "sched"

    def __init__(self, router: Router, log: BrokerLog, alloc: Alloc) -> None:
        super().__init__(router, log)
        self._alloc = alloc

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{queue_length, alloc_pending, running}``."""
        return dict(self._alloc.counts())

    @method("resource-status")
    def resource_status(self, request: Request) -> Answer:
        """→ ``{all, allocated, down}``, each an R: what tools asked before ``resource.sched-status``."""
        pool = self._alloc.scheduler.pool
        if pool is None:
            raise FluxError(errno.ENOSYS)
        sets = {"all": pool.resources, "allocated": pool.allocated(), "down": pool.down()}
        return {name: resources.encode() for name, resources in sets.items()}


class SchedSimpleService(SchedService):
    """The same under the name of flux-core's module."""

    name = "sched-simple"


class FeasibilityService(Service):
    """Says whether a job could ever run here (RFC 27, "Feasibility")."""

    name = "feasibility"

    def __init__(self, router: Router, log: BrokerLog, scheduler: Scheduler) -> None:
        super().__init__(router, log)
        self._scheduler = scheduler

    @method("check", roles=ALL)
    def check(self, request: Request) -> Answer:
        """``{jobspec}`` → empty. EOVERFLOW, with the reason, if the job can never run here."""
        try:
            self._scheduler.check(request.field("jobspec", dict))
        except Infeasible as error:
            raise FluxError(errno.EOVERFLOW, str(error)) from None
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return None
