"""All jobs under execution, on rank 0: the job manager's executor (flux-core's job-exec)."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.execution import Execution
from pytest_flux.broker.exec.mock import MockExecution, is_mock
from pytest_flux.broker.exec.work import Work, full_jobspec, signed_environment
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58_for, kvs_key
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.severity import LOG_DEBUG

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.start import Callbacks
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.services.groups import GroupsService
    from pytest_flux.reactor.reactor import Reactor


class JobExec:
    """Implements Executor of the job manager (jobs/start.py)."""

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        config: Mapping[str, Any],
        kvs: Kvs,
        groups: GroupsService,
        shells: Shells,
        log: BrokerLog,
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._attributes = attributes
        self._config = config
        self._kvs = kvs
        self._groups = groups
        self._shells = shells
        self._log = log
        self._executions: dict[int, Execution | MockExecution] = {}
        self._canceled: dict[int, str | None] = {}
        self._online: set[int] = set()
        self._watches = False

    def start(self, job: Job, resources: dict[str, Any], callbacks: Callbacks) -> None:
        """See Executor."""
        if job.was_started:
            text = "reattach to running job is not implemented"
            callbacks.exception("exec", 0, f"{text}: {os.strerror(errno.ENOSYS)}")
            callbacks.released("all", final=True)
            return
        self._watch()
        # Not at once: it posts events, and the event that has led here is not over yet.
        # Meanwhile the job may be canceled.
        self._canceled[job.id] = None
        environment, jobspec = job.environment, job.jobspec
        self._reactor.call_soon(lambda: self._begin(job.id, job.userid, jobspec, environment, resources, callbacks))

    def _begin(
        self,
        job_id: int,
        userid: int,
        jobspec: dict[str, Any],
        environment: dict[str, Any] | None,
        resources: dict[str, Any],
        callbacks: Callbacks,
    ) -> None:
        exception = self._canceled.pop(job_id)
        try:
            if environment is None:
                environment = signed_environment(self._kvs.lookup(kvs_key(job_id, "J")))
            jobspec = full_jobspec(jobspec, environment)
            work = Work(job_id, userid, jobspec, resources, callbacks, lambda: self._ended(job_id))
            execution = self._make(work)
        except (ProtocolError, FluxError, ValueError, KeyError, TypeError) as error:
            callbacks.exception("exec", 0, f"job start failure: {error}")
            callbacks.released("all", final=True)
            return
        self._executions[job_id] = execution
        execution.begin()
        if exception is not None:
            execution.terminate(exception)

    def _make(self, work: Work) -> Execution | MockExecution:
        if is_mock(work.jobspec):
            return MockExecution(self._reactor, self._kvs, work)
        return Execution(
            self._reactor,
            self._router,
            self._attributes,
            self._config,
            self._kvs,
            self._shells,
            work,
            lambda text: self._log.write(LOG_DEBUG, text, "job-exec"),
        )

    def stats(self) -> dict[str, dict[str, object]]:
        """Return what is known of each job, by its id in F58."""
        return {f58_for(job_id, os.environ): execution.stats() for job_id, execution in self._executions.items()}

    @property
    def is_busy(self) -> bool:
        """Whether there are jobs with processes."""
        return any(isinstance(execution, Execution) for execution in self._executions.values())

    @property
    def is_settled(self) -> bool:
        """Whether no job is being started or killed."""
        return not self._canceled and all(execution.is_settled for execution in self._executions.values())

    def _ended(self, job_id: int) -> None:
        self._executions.pop(job_id, None)

    def terminate(self, job_id: int, kind: str) -> None:
        """See Executor."""
        execution = self._executions.get(job_id)
        if execution is not None:
            execution.terminate(kind)
        elif job_id in self._canceled:
            self._canceled[job_id] = kind

    def expiration(self, job_id: int, expiration: float) -> None:
        """See Executor."""
        execution = self._executions.get(job_id)
        if execution is not None:
            execution.expiration(expiration)
            text = f"updated expiration of {f58_for(job_id, os.environ)} to {expiration:.2f}"
            self._log.write(LOG_DEBUG, text, "job-exec")

    def set_critical(self, job_id: int, shells: set[int], userid: int | None) -> None:
        """Let a job survive the loss of all shells but these. FluxError ENOENT, EPERM.

        ``userid`` is the user who asks, None for the owner of the instance.
        """
        execution = self._executions.get(job_id)
        if execution is None:
            raise FluxError(errno.ENOENT)
        if userid is not None and userid != execution.userid:
            raise FluxError(errno.EPERM)
        execution.set_critical(shells)

    def override(self, job_id: int, event: str, status: int, userid: int) -> None:
        """Start or finish a test job, as its user asks. FluxError ENOENT, EPERM, EINVAL, in flux-core's words."""
        execution = self._executions.get(job_id)
        if not isinstance(execution, MockExecution):
            raise FluxError(errno.ENOENT, "Job not found")
        if userid != execution.userid:
            raise FluxError(errno.EPERM, "Permission denied")
        execution.override(event, status)

    # -- lost brokers

    def _watch(self) -> None:
        if not self._watches:
            self._watches = True
            self._groups.watch("broker.online", self._members_changed)

    def _members_changed(self, members: str) -> None:
        online = set(decode_idset(members))
        for rank in self._online - online:
            for execution in list(self._executions.values()):
                execution.lose(rank)
        self._online = online
