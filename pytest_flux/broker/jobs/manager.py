"""The job manager of an instance: all its jobs, and the parts that move them along."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.alloc import Alloc
from pytest_flux.broker.jobs.batch import Batch
from pytest_flux.broker.jobs.dependencies import Dependencies
from pytest_flux.broker.jobs.events import Events
from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.journal import Journal
from pytest_flux.broker.jobs.limits import check_lifetime, check_limits
from pytest_flux.broker.jobs.purge import Purge
from pytest_flux.broker.jobs.queues import Queue, Queues
from pytest_flux.broker.jobs.restart import Restart
from pytest_flux.broker.jobs.start import Start
from pytest_flux.broker.jobs.stats import Stats
from pytest_flux.broker.jobs.store import Store, encode_value
from pytest_flux.broker.jobs.update import Update
from pytest_flux.broker.jobs.waits import Waits
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    RUN,
    URGENCY_EXPEDITE,
    URGENCY_HOLD,
)

if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor

_ERR = 3
_CHECKPOINT = "checkpoint.job-manager"
_CHECKPOINT_VERSION = 1
_FEW = 16
"""With more jobs than these, what they tell is written less often."""
_SETTLE_TIMEOUT = 30.0


class JobManager:
    """Jobs by their ids: ``active`` in the order of submission, ``inactive`` in the order in which they ended."""

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
        self.router = router
        self.log = log
        self.config = config
        self.is_recovery = is_recovery
        self.owner = os.getuid()
        self.store = store
        self.active: dict[int, Job] = {}
        self.inactive: dict[int, Job] = {}
        self.history: list[int] = []
        self.running = 0
        self.max_jobid = 0
        self.on_retire: list[Callable[[Job], None]] = []
        self.on_forget: list[Callable[[Job], None]] = []
        self.batch = Batch(reactor, self.store, self._commit_failed, lambda: len(self.active) > _FEW)
        self.events = Events(self, self.batch)
        self.queues = Queues(config, self._queue_changed)
        self.alloc = Alloc(self)
        self.journal = Journal(self)
        self.dependencies = Dependencies(self)
        self.start = Start(self)
        self.waits = Waits(self)
        self.purge = Purge(self)
        self.update = Update(self)
        self.purge.configure(config)
        self.stats = Stats(self)
        Restart(self).run()

    def _commit_failed(self, errnum: int) -> None:
        self.log.write(_ERR, f"eventlog update failed: {os.strerror(errnum)}", "job-manager")

    def find(self, job_id: int) -> Job | None:
        """The job of that id, active or not; None if there is none."""
        return self.active.get(job_id) or self.inactive.get(job_id)

    def find_active(self, job_id: int, errnum: int, unknown: str = "unknown job id") -> Job:
        """The active job of that id. FluxError with ``errnum`` if there is none."""
        job = self.active.get(job_id)
        if job is None:
            raise FluxError(errnum, "job is inactive" if job_id in self.inactive else unknown)
        return job

    # -- life of a job

    def submit(self, job: Job, userid: int, urgency: int, flags: int) -> None:
        """Take a job in. FluxError EINVAL, with the reason, if it is refused.

        Its events go on only once all that was put into :attr:`batch` before is in the KVS.
        """
        self.queues.check_submit(job.queue)
        self.active[job.id] = job
        context = {"userid": userid, "urgency": urgency, "flags": flags, "version": 1}
        try:
            # Nothing of a job that is refused may reach the KVS: its events wait until it is not.
            job.is_held = True
            self.events.post(job, "submit", context)
            job.userid, job.urgency, job.flags = userid, urgency, flags
            check_limits(self.config, job.jobspec)
            pool = self.alloc.scheduler.pool
            check_lifetime(pool.resources.expiration if pool is not None else 0.0, self.clock.time(), job.jobspec)
            self.dependencies.check(job)
        except FluxError:
            job.queued_events.clear()
            del self.active[job.id]
            self.dependencies.forget(job)
            raise
        self.dependencies.admitted(job)
        self.history.append(job.id)
        self.max_jobid = max(self.max_jobid, job.id)
        self.events.post(job, "validate")
        self.events.admit(job)
        self.waits.activated(job)

    def prioritize(self, job: Job) -> None:
        """A job is in PRIORITY: its urgency becomes its priority (flux-core's priority-default)."""
        priority = job.urgency
        if job.urgency == URGENCY_HOLD:
            priority = PRIORITY_MIN
        elif job.urgency == URGENCY_EXPEDITE:
            priority = PRIORITY_MAX
        self.events.post(job, "priority", {"priority": priority})

    def retire(self, job: Job) -> None:
        """A job is inactive."""
        del self.active[job.id]
        self.inactive[job.id] = job
        job.freeze()
        for callback in self.on_retire:
            callback(job)
        self.waits.retired(job)

    def forget(self, job: Job) -> None:
        """A job was purged."""
        if job.id in self.history:
            self.history.remove(job.id)
        for callback in self.on_forget:
            callback(job)

    def raise_exception(
        self,
        job: Job,
        kind: str,
        severity: int,
        note: str = "",
        userid: int | None = None,
        wait_status: int | None = None,
    ) -> None:
        """Post an exception, and publish it as flux-core does."""
        context: dict[str, Any] = {"type": kind, "severity": severity, "note": note}
        context["userid"] = self.owner if userid is None else userid
        published = {"id": job.id, "type": kind, "severity": severity}
        if wait_status is not None:
            context["wait_status"] = published["wait_status"] = wait_status
        self.events.post(job, "exception", context)
        payload = json.dumps(published).encode() + b"\0"
        self.router.publish("job-exception", payload, private=True)

    def _queue_changed(self, queue: Queue) -> None:
        for job in list(self.active.values()):
            if queue.name is not None and job.queue != queue.name:
                continue
            if queue.is_started:
                self.alloc.enqueue(job)
            else:
                self.alloc.dequeue(job)
        self.waits.check()

    # -- what outlives the instance

    def settle(self, done: Callable[[], None]) -> None:
        """The instance ends: what runs is cancelled, what waits is kept (the "cleanup" of flux-core's rc1).

        ``done`` is called when nothing runs and all is in the KVS, or after a time in which every job should end.
        """
        self.queues.start(None, start=False, reason=None, everything=True, nocheckpoint=True)
        for job in [job for job in self.active.values() if job.state == RUN]:
            self.raise_exception(job, "cancel", 0)
        callbacks = [done]

        def finish(_: int = 0) -> None:
            if callbacks:
                callbacks.pop()()

        def check(*_: object) -> None:
            if not self.running and callbacks:
                self.save()
                self.batch.afterwards(finish)

        self.events.listen_states(check)
        self.reactor.call_later(_SETTLE_TIMEOUT, finish)
        check()

    def save(self) -> None:
        """Put what a restart needs into the KVS."""
        state = {"version": _CHECKPOINT_VERSION, "max_jobid": self.max_jobid, "queue": self.queues.save()}
        self.batch.put(_CHECKPOINT, encode_value(state))
