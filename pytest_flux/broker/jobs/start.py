"""Between job manager and executor: starts jobs in RUN, and posts their events (flux-core's start.c, job-exec)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flux.protocol.job_state import FLAG_DEBUG
from pytest_flux.protocol.severity import LOG_ERR

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.events import Events
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.scheduler import Scheduler
    from pytest_flux.broker.jobs.store import Batch
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

TIMEOUT_NOTE = "resource allocation expired"


class Callbacks(Protocol):
    """What an executor calls for one job, in this order."""

    def started(self, then: Callable[[], None]) -> None:
        """Shells are about to run; call ``then`` when no restart of the broker can lose that."""

    def exception(self, kind: str, severity: int, note: str) -> None:
        """Something went wrong. After severity 0 the executor itself ends the tasks."""

    def finished(self, status: int) -> None:
        """All tasks have ended. ``status`` is the worst wait status of the shells. Not called if none began."""

    def released(self, ranks: str = "all", *, final: bool = True) -> None:
        """Resources are free; with ``final``, all of them, and the job's guest directory in the KVS is complete."""


class Executor(Protocol):
    """Runs jobs.

    Signals of users do not go through here: job shells get them as events ``shell-<id>.kill`` with ``{"signum": n}``
    (flux-core's kill.c).
    """

    def start(self, job: Job, resources: dict[str, Any], callbacks: Callbacks) -> None:
        """Run a job. Its jobspec has no environment: that is ``job.environment``, or in J after a restart (None)."""

    def terminate(self, job_id: int, kind: str) -> None:
        """End the tasks after a fatal exception: SIGALRM for "timeout", else SIGTERM; then SIGKILL."""

    def expiration(self, job_id: int, expiration: float) -> None:
        """Note a new time limit; 0 is none."""


class _Running:
    """One job that the executor runs."""

    def __init__(self, start: Start, job: Job) -> None:
        self._start = start
        self.job = job
        self.timer: Timer | None = None

    def started(self, then: Callable[[], None]) -> None:
        if not self.job.was_started:
            self._start.post(self.job, "start")
        self._start.preserved(then)

    def exception(self, kind: str, severity: int, note: str) -> None:
        self._start.exception(self.job, kind, severity, note)

    def finished(self, status: int) -> None:
        self.cancel_timer()
        self._start.post(self.job, "finish", {"status": status})

    def released(self, ranks: str = "all", *, final: bool = True) -> None:
        self._start.post(self.job, "release", {"ranks": ranks, "final": final})

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Start:
    """The jobs that run. Without an executor, jobs wait in RUN."""

    def __init__(
        self,
        reactor: Reactor,
        log: BrokerLog,
        table: JobTable,
        events: Events,
        batch: Batch,
        scheduler: Scheduler,
        *,
        is_recovery: bool,
    ) -> None:
        self._reactor = reactor
        self._log = log
        self._table = table
        self._events = events
        self._scheduler = scheduler
        self._is_recovery = is_recovery
        self.preserved = batch.preserved
        self._executor: Executor | None = None
        self._running: dict[int, _Running] = {}
        events.listen(self._event)

    @property
    def has_executor(self) -> bool:
        """Whether jobs in RUN are started."""
        return self._executor is not None

    def stop(self) -> None:
        """Start no more jobs."""
        self._executor = None

    def use(self, executor: Executor) -> None:
        """Run jobs with ``executor`` from now on, first those that wait in RUN."""
        self._executor = executor
        # Recovery mode shows jobs as they were left.
        if self._is_recovery:
            return
        for job in list(self._table.active.values()):
            self._events.act(job)

    def start(self, job: Job) -> None:
        """Start a job in RUN, unless that was done."""
        resources = job.R
        if job.start_pending or job.was_released or self._executor is None or resources is None:
            return
        job.start_pending = True
        if job.flags & FLAG_DEBUG:
            self.post(job, "debug.start-request")
        running = self._running[job.id] = _Running(self, job)
        self._arm(running, resources["execution"].get("expiration", 0.0))
        try:
            self._executor.start(job, resources, running)
        except Exception as error:  # noqa: BLE001
            # A fault in one job must not end the instance.
            self._log.write(LOG_ERR, f"start: {traceback.format_exc()}", "job-exec")
            running.exception("exec", 0, f"internal error: {error!r}")
            running.released()
        job.environment = None

    def _arm(self, running: _Running, expiration: float) -> None:
        running.cancel_timer()
        if expiration:
            delay = max(0.0, expiration - self._reactor.clock.time())
            running.timer = self._reactor.clock.call_later(delay, lambda: self._expired(running.job))

    def _expired(self, job: Job) -> None:
        self.exception(job, "timeout", 0, TIMEOUT_NOTE)

    def exception(self, job: Job, kind: str, severity: int, note: str) -> None:
        """Post an exception, with its members in the order of flux-core's job-exec."""
        context = {"type": kind, "severity": severity, "userid": self._events.owner, "note": note}
        self.post(job, "exception", context)

    def post(self, job: Job, name: str, context: dict[str, Any] | None = None) -> None:
        """Post an event, unless the job's log is closed."""
        if not job.is_readonly:
            self._events.post(job, name, context)

    def _event(self, job: Job, event: Event, _: bool) -> None:
        running = self._running.get(job.id)
        if running is None or self._executor is None:
            return
        context = event.get("context") or {}
        if event["name"] == "exception" and context["severity"] == 0:
            running.cancel_timer()
            self._executor.terminate(job.id, context["type"])
        elif event["name"] == "release" and context["final"]:
            running.cancel_timer()
            del self._running[job.id]
            job.start_pending = False
        elif event["name"] == "resource-update":
            expiration = float(context["expiration"])
            self._scheduler.update_expiration(job, expiration)
            self._arm(running, expiration)
            self._executor.expiration(job.id, expiration)
