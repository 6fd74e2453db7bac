"""Between job manager and execution: jobs in RUN are started, and what becomes of them turns into events."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flux.protocol.job_state import FLAG_DEBUG
from pytest_flux.reactor.reactor import Timer

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.protocol.eventlog import Event

_ERR = 3

TIMEOUT_NOTE = "resource allocation expired"


class Callbacks(Protocol):
    """What an executor tells of one job, in this order."""

    def started(self, then: Callable[[], None]) -> None:
        """Shells are about to run; ``then`` is called once a broker that comes after this one will know."""

    def exception(self, kind: str, severity: int, note: str) -> None:
        """Something went wrong. Severity 0 is fatal: the executor ends the tasks by itself."""

    def finished(self, status: int) -> None:
        """All tasks are over. ``status`` is the gravest wait status of the shells. Left out if none began."""

    def released(self, ranks: str = "all", *, final: bool = True) -> None:
        """Resources are free again; with ``final``, all of them, and the guest part of the KVS is complete."""


class Executor(Protocol):
    """Runs jobs. Everything that a job's shells get by other ways, signals for one, is its own business.

    Signals of users come as events ``shell-<id>.kill`` with ``{"signum": n}`` (flux-core's kill.c).
    """

    def start(self, job: Job, resources: dict[str, Any], callbacks: Callbacks) -> None:
        """Run a job. ``job.environment`` is what its jobspec lacks; None after a restart, when J has it."""

    def terminate(self, job_id: int, kind: str) -> None:
        """A fatal exception of this type: end the tasks (SIGALRM for "timeout", else SIGTERM; then SIGKILL)."""

    def expiration(self, job_id: int, expiration: float) -> None:
        """The time limit has changed; 0 is none."""


class _Running:
    """One job that the executor has."""

    def __init__(self, start: Start, job: Job) -> None:
        self._start = start
        self.job = job
        self.timer: Timer | None = None

    def started(self, then: Callable[[], None]) -> None:
        if not self.job.was_started:
            self._start.post(self.job, "start")
        self._start.recorded(then)

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
    """Jobs under execution. ``executor`` may come late: jobs wait in RUN for it."""

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._executor: Executor | None = None
        self._running: dict[int, _Running] = {}
        manager.events.listen(self._event)

    def use(self, executor: Executor) -> None:
        """From now on jobs are executed, those that have waited first."""
        self._executor = executor
        # In recovery, jobs are as they were left, and stay so.
        if self._manager.is_recovery:
            return
        for job in list(self._manager.active.values()):
            self._manager.events.act(job)

    def start(self, job: Job) -> None:
        """A job is in RUN."""
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
            # One job's fault must not take the instance down.
            self._manager.log.write(_ERR, f"start: {traceback.format_exc()}", "job-exec")
            running.exception("exec", 0, f"internal error: {error!r}")
            running.released()
        job.environment = None

    def _arm(self, running: _Running, expiration: float) -> None:
        running.cancel_timer()
        if expiration:
            delay = max(0.0, expiration - self._manager.clock.time())
            running.timer = self._manager.reactor.call_later(delay, lambda: self._expired(running.job))

    def _expired(self, job: Job) -> None:
        # The order of the members is the one that flux-core's job-exec gives them.
        userid = self._manager.owner
        context = {"type": "timeout", "severity": 0, "userid": userid, "note": TIMEOUT_NOTE}
        self.post(job, "exception", context)

    def exception(self, job: Job, kind: str, severity: int, note: str) -> None:
        """The executor reports an exception."""
        context = {"type": kind, "severity": severity, "userid": self._manager.owner, "note": note}
        self.post(job, "exception", context)

    def recorded(self, then: Callable[[], None]) -> None:
        """Call back once nothing of what was posted can be forgotten; at once, if nothing is kept anyway."""
        if self._manager.store.is_volatile:
            then()
        else:
            self._manager.batch.afterwards(lambda _: then(), preserve=True)

    def post(self, job: Job, name: str, context: dict[str, Any] | None = None) -> None:
        """Post an event, unless the job is over already."""
        if not job.is_readonly:
            self._manager.events.post(job, name, context)

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
            self._manager.alloc.scheduler.update_expiration(job, expiration)
            self._arm(running, expiration)
            self._executor.expiration(job.id, expiration)
