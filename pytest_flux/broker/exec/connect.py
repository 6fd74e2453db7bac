"""What makes an instance run jobs: the job manager gets resources to schedule on and an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flux.broker.exec.job_exec import JobExec
from pytest_flux.broker.jobs.manager import JobManager
from pytest_flux.broker.resource.inventory import Inventory
from pytest_flux.broker.resource.supply import Supply
from pytest_flux.broker.services.lazy import part

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker


class Connected:
    """Made once, with the first service of jobs that is asked for anything."""

    def __init__(self, broker: Broker) -> None:
        manager = part(broker, JobManager)
        manager.start.use(part(broker, JobExec))
        self.supply = Supply(part(broker, Inventory), manager.alloc)
