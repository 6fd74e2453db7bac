"""The job manager of an instance: the parts that move jobs along, and who is given what.

This is the one place that wires them. Each part is given what it uses, in the constructor below; no part knows the
manager. Services of jobs (``broker/services/job_*.py``) are given the manager and use its parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.alloc import Alloc
from pytest_flux.broker.jobs.dependencies import Dependencies
from pytest_flux.broker.jobs.events import Events
from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.journal import Journal
from pytest_flux.broker.jobs.limits import check_lifetime, check_limits
from pytest_flux.broker.jobs.listing import Stats
from pytest_flux.broker.jobs.purge import Purge
from pytest_flux.broker.jobs.queues import Queue, Queues
from pytest_flux.broker.jobs.restart import stored_jobs
from pytest_flux.broker.jobs.start import Start
from pytest_flux.broker.jobs.store import Batch, Store, encode_value
from pytest_flux.broker.jobs.table import JobTable
from pytest_flux.broker.jobs.update import Update
from pytest_flux.broker.jobs.waits import Waits
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import DEPEND, INACTIVE, RUN, RUNNING, SCHED
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO

if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor

_CHECKPOINT = "checkpoint.job-manager"
_CHECKPOINT_VERSION = 1
_FEW = 16
"""With more active jobs than these, commits collect changes for longer."""
_SETTLE_TIMEOUT = 30.0


class JobManager:
    """Takes jobs in, retires them, and keeps across a restart what the KVS does not say job by job."""

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        log: BrokerLog,
        config: dict[str, Any],
        store: Store,
        *,
        is_recovery: bool,
    ) -> None:
        self.reactor = reactor
        self.clock = reactor.clock
        self.config = config
        self.is_recovery = is_recovery
        self.owner = os.getuid()
        self._log = log
        self._store = store
        table = self.table = JobTable()
        batch = self.batch = Batch(reactor, store, self._commit_failed, lambda: len(table.active) > _FEW)
        events = self.events = Events(table, batch, self.clock, router, self.owner)
        self.queues = Queues(config, self._queue_changed)
        self.alloc = Alloc(reactor, table, events, batch, self.queues)
        self.scheduler = self.alloc.scheduler
        self.journal = Journal(table, events)
        self.dependencies = Dependencies(reactor, table, events)
        self.start = Start(reactor, log, table, events, batch, self.scheduler, is_recovery=is_recovery)
        self.waits = Waits(table, batch, self.alloc)
        self.purge = Purge(reactor, router, table, batch, self.save)
        self.update = Update(config, self.clock, log, table, events, self.queues, self.scheduler)
        self.stats = Stats(table, self.queues)
        events.connect(self.alloc, self.start.start, self._retire)
        self.purge.configure(config)
        self._restart()

    def _commit_failed(self, errnum: int) -> None:
        self._log.write(LOG_ERR, f"eventlog update failed: {os.strerror(errnum)}", "job-manager")

    def configure(self, config: dict[str, Any]) -> None:
        """Take over ``[queues]`` and ``[job-manager]`` of a configuration that was checked."""
        self.queues.configure(config)
        self.purge.configure(config)

    # -- life of a job

    def submit(self, job: Job, userid: int, urgency: int, flags: int) -> None:
        """Take a job in. Raises FluxError EINVAL, with the reason, if it is refused.

        Its later events wait until everything that was put into :attr:`batch` before is in the KVS.
        """
        self.queues.check_submit(job.queue)
        active = self.table.active
        active[job.id] = job
        context = {"userid": userid, "urgency": urgency, "flags": flags, "version": 1}
        try:
            # Nothing of a refused job may reach the KVS: its events wait until the checks are over.
            job.is_held = True
            self.events.post(job, "submit", context)
            job.userid, job.urgency, job.flags = userid, urgency, flags
            check_limits(self.config, job.jobspec)
            check_lifetime(self.scheduler.expiration, self.clock.time(), job.jobspec)
            self.dependencies.check(job)
        except FluxError:
            job.queued_events.clear()
            del active[job.id]
            self.dependencies.forget(job)
            raise
        self.dependencies.admitted(job)
        self.table.admit(job)
        self.events.post(job, "validate")
        self.events.admit(job)
        self.waits.activated(job)

    def _retire(self, job: Job) -> None:
        self.table.retire(job)
        self.waits.retired(job)

    def _queue_changed(self, queue: Queue) -> None:
        for job in list(self.table.active.values()):
            if queue.name is not None and job.queue != queue.name:
                continue
            if queue.is_started:
                self.alloc.enqueue(job)
            else:
                self.alloc.dequeue(job)
        self.waits.check()

    # -- across a restart (flux-core's restart.c)

    def _restart(self) -> None:
        """Read the jobs of an earlier run, then the checkpoint, then let the active jobs go on."""
        table = self.table
        jobs = list(stored_jobs(self._store, self._log))
        for job in sorted(jobs, key=lambda job: (job.t_inactive, job.id)):
            table.max_jobid = max(table.max_jobid, job.id)
            if job.state == INACTIVE:
                job.is_readonly = True
                table.add_inactive(job)
        table.history = [job.id for job in sorted(jobs, key=lambda job: job.t_submit)]
        self._load()
        active = sorted((job for job in jobs if job.state != INACTIVE), key=lambda job: job.id)
        for job in active:
            table.active[job.id] = job
            self.waits.activated(job)
            table.running += bool(job.state & RUNNING)
        if jobs:
            self._log.write(LOG_INFO, f"restart: {len(jobs)} jobs, {table.running} running", "job-manager")
        for job in active:
            self.dependencies.admitted(job)
            if not self.is_recovery:
                self._resume(job)

    def _resume(self, job: Job) -> None:
        if job.state == DEPEND:
            try:
                self.dependencies.check(job)
            except FluxError as error:
                note = f"{error.text} (job may be stuck in DEPEND state)"
                self.events.raise_exception(job, "dependency", 4, note)
        if job.state == SCHED:
            job.priority = -1
            self.events.post(job, "flux-restart")
        elif job.state & RUNNING and job.was_started and job.has_resources and job.wait_status < 0:
            # Its shells ended with the broker that ran them, and it must not run twice.
            self.events.raise_exception(job, "exec", 0, "instance restarted while the job was running")
        if job.id in self.table.active:
            self.events.act(job)

    def save(self) -> None:
        """Put the checkpoint into the KVS."""
        state = {"version": _CHECKPOINT_VERSION, "max_jobid": self.table.max_jobid, "queue": self.queues.save()}
        self.batch.put(_CHECKPOINT, encode_value(state))

    def _load(self) -> None:
        checkpoint = self._store.lookup(_CHECKPOINT)
        if checkpoint is None:
            return
        try:
            state: dict[str, Any] = json.loads(checkpoint)
            self.table.max_jobid = max(self.table.max_jobid, int(state["max_jobid"]))
            self.queues.restore(state.get("queue") or [])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._log.write(LOG_ERR, f"restart: {_CHECKPOINT}: {error!r}", "job-manager")

    # -- the end of the manager, or of the instance

    def end(self) -> None:
        """Bring all changes to the KVS, and change nothing from now on: the module is removed."""
        self.start.stop()
        self.alloc.go_offline()
        self.save()
        self.batch.close()

    def settle(self, done: Callable[[], None]) -> None:
        """Cancel running jobs and keep waiting ones (flux-core's etc/rc1 has this in its "cleanup").

        ``done`` is called when nothing runs and all changes are in the KVS, or when jobs take too long to end.
        """
        self.queues.start(None, start=False, reason=None, everything=True, nocheckpoint=True)
        for job in [job for job in self.table.active.values() if job.state == RUN]:
            self.events.raise_exception(job, "cancel", 0)
        callbacks = [done]

        def finish(_: int = 0) -> None:
            if callbacks:
                callbacks.pop()()

        def check(*_: object) -> None:
            if not self.table.running and callbacks:
                self.save()
                self.batch.afterwards(finish)

        self.events.listen_states(check)
        self.reactor.call_later(_SETTLE_TIMEOUT, finish)
        check()
