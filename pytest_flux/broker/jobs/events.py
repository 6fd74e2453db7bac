"""How events move a job: the state machine of RFC 21.

The problem: a job is changed by many hands (clients, the scheduler, the executor, timers, other jobs), and after a
restart its event log in the KVS is all that is left. So nothing but an event may change a job, and the same event
must do the same when it happens and when it is replayed.

Three ways were open. flux-core's C code switches on the event's name in one function and on the state in another
(src/modules/job-manager/event.c). A class for each state would spread one event over many classes. We follow
flux-core, in two halves that do not know each other:

* ``apply_event`` is the pure half: a job and an event in, a changed job out. It asks no clock and calls nobody, so
  restart and postmortem replay logs with it. ``_CHANGES`` has a function for each event that carries data; the next
  state comes from ``protocol.job_state.next_state``.
* ``Events`` is the acting half: after each event it looks at the job's state and does what that state asks
  for (``act``): post the next event, queue the job for the scheduler, start it, retire it.

What must stay true:

* One job's events are worked off one after another. An action may post further events of the same job; they wait in
  ``job.queued_events`` until the current event has been applied, listened to and acted on.
* ``act`` may be called at any time and twice: each action checks what has been done already (``depend_posted``,
  ``free_posted``, ``start_pending``, ``is_queued``) and what waits in the queue.
* Prolog and epilog events hold a job in RUN or CLEANUP: ``perilogs`` counts those that are not finished.
* Listeners are called after an event was applied and before it is acted on, and may not change the job but by events.
* The events of a submission are applied at once, but the job goes on only when they are in the KVS (``admit``): a
  client that sees a job anywhere finds it in the KVS.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flux.protocol import job_state
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import Event, encode_event, make_event
from pytest_flux.protocol.job_state import (
    CLEANUP,
    DEPEND,
    INACTIVE,
    NEW,
    PRIORITY,
    PRIORITY_MAX,
    PRIORITY_MIN,
    RUN,
    RUNNING,
    SCHED,
    URGENCY_EXPEDITE,
    URGENCY_HOLD,
    next_state,
)
from pytest_flux.protocol.message import encode_json

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.store import Batch
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.clock import Clock

Listener = Callable[["Job", Event, bool], None]
"""Called with each event after it was applied, and whether it goes into the KVS."""

_TIMES = {
    job_state.DEPEND: "t_depend",
    job_state.PRIORITY: "t_priority",
    job_state.SCHED: "t_sched",
    job_state.RUN: "t_run",
    job_state.CLEANUP: "t_cleanup",
    job_state.INACTIVE: "t_inactive",
}
# A job that returns to PRIORITY keeps the time of its first visit, as in flux-core's job-list.
_FIRST_TIME_COUNTS = frozenset((job_state.PRIORITY, job_state.SCHED))


def apply_event(job: Job, event: Event) -> None:
    """Change ``job`` as an event says (flux-core's event_job_update). Raises ProtocolError if it makes no sense."""
    name, context = event["name"], event.get("context") or {}
    before = job.state
    try:
        change = _CHANGES.get(name)
        if change is not None:
            change(job, event, context)
        after = next_state(before, name, context)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"event does not make sense ({error!r})", name[:80]) from None
    if after != before:
        _enter(job, after, event["timestamp"])


def _enter(job: Job, state: int, timestamp: float) -> None:
    if job.state == SCHED and state == PRIORITY:
        job.states_mask &= ~SCHED
    job.state = state
    job.states_mask |= state
    time = _TIMES[state]
    if state not in _FIRST_TIME_COUNTS or not getattr(job, time):
        setattr(job, time, timestamp)


def _submit(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.t_submit = event["timestamp"]
    job.urgency = int(context["urgency"])
    job.userid = int(context["userid"])
    job.flags = int(context["flags"])


def _invalidate(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.is_readonly = True


def _update_jobspec(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.update_jobspec(context)


def _update_resources(job: Job, event: Event, context: dict[str, Any]) -> None:
    resources = job.R
    if resources is None:
        raise ValueError("no resources yet")
    resources["execution"]["expiration"] = context["expiration"]
    job.set_resources(resources)


def _add_dependency(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.had_dependencies = True
    if context["description"] not in job.dependencies:
        job.dependencies.append(context["description"])


def _remove_dependency(job: Job, event: Event, context: dict[str, Any]) -> None:
    if context["description"] in job.dependencies:
        job.dependencies.remove(context["description"])


def _set_flags(job: Job, event: Event, context: dict[str, Any]) -> None:
    for flag in context["flags"]:
        if flag == "debug":
            job.flags |= job_state.FLAG_DEBUG
        elif flag == "immutable":
            job.is_immutable = True
        elif flag != "alloc-bypass":
            raise ValueError(f"unknown flag {flag}")


def _memo(job: Job, event: Event, context: dict[str, Any]) -> None:
    merge_annotations(job, {"user": context})


def _annotations(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.annotations = context["annotations"]


def _priority(job: Job, event: Event, context: dict[str, Any]) -> None:
    if job.state in (PRIORITY, SCHED):
        job.priority = int(context["priority"])


def _urgency(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.urgency = int(context["urgency"])


def _exception(job: Job, event: Event, context: dict[str, Any]) -> None:
    severity, kind = int(context["severity"]), str(context["type"])
    if job.exception_type is None or severity < job.exception_severity:
        job.exception_type, job.exception_severity = kind, severity
        job.exception_note = str(context.get("note", ""))
    if severity == 0 and not job.ended_by and job.state not in (NEW, INACTIVE):
        job.ended_by = "exception"


def _alloc(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.has_resources = job.was_allocated = True
    if context.get("annotations"):
        job.annotations = context["annotations"]


def _start(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.was_started = True


def _finish(job: Job, event: Event, context: dict[str, Any]) -> None:
    status = int(context["status"])
    if not -1 << 31 <= status < 1 << 31:
        raise ValueError(f"no status as of waitpid(): {status}")
    job.wait_status = status
    fatal = job.exception_type is not None and job.exception_severity == 0
    job.succeeded = job.wait_status == 0 and not fatal
    if job.state == job_state.RUN and not job.ended_by:
        job.ended_by = "finish"


def _release(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.was_released = job.was_released or context["final"] is True


def _free(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.has_resources = False


def _perilog_start(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.perilogs += 1


def _perilog_finish(job: Job, event: Event, context: dict[str, Any]) -> None:
    job.perilogs = max(0, job.perilogs - 1)


_CHANGES = {
    "submit": _submit,
    "invalidate": _invalidate,
    "jobspec-update": _update_jobspec,
    "resource-update": _update_resources,
    "dependency-add": _add_dependency,
    "dependency-remove": _remove_dependency,
    "set-flags": _set_flags,
    "memo": _memo,
    "annotations": _annotations,
    "priority": _priority,
    "urgency": _urgency,
    "exception": _exception,
    "alloc": _alloc,
    "start": _start,
    "finish": _finish,
    "free": _free,
    "release": _release,
    "prolog-start": _perilog_start,
    "prolog-finish": _perilog_finish,
    "epilog-start": _perilog_start,
    "epilog-finish": _perilog_finish,
}


def merge_annotations(job: Job, changes: dict[str, Any]) -> None:
    """Merge ``changes`` into a job's annotations, recursively. Null removes a member; empty objects go, too."""
    job.annotations = _merged(job.annotations or {}, changes) or None


def _merged(present: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(present)
    for key, value in changes.items():
        if isinstance(value, dict):
            below = merged.get(key)
            value = _merged(below if isinstance(below, dict) else {}, value) or None
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


class Scheduling(Protocol):
    """What the state machine has done with jobs that need resources."""

    def enqueue(self, job: Job) -> None:
        """Queue a job in SCHED for the scheduler."""

    def dequeue(self, job: Job) -> None:
        """Take a job out of the scheduler's queue, if it is there."""

    def free(self, job: Job) -> None:
        """Give a job's resources back."""


class Events:
    """Applies events in order, calls the listeners, and does what the next state asks for.

    ``owner`` is the user id of the instance owner.
    """

    def __init__(self, table: JobTable, batch: Batch, clock: Clock, router: Router, owner: int) -> None:
        self.owner = owner
        self._table = table
        self._batch = batch
        self._clock = clock
        self._router = router
        self._listeners: list[Listener] = []
        self._state_listeners: list[Callable[[Job, int], None]] = []
        self._scheduling: Scheduling
        self._start: Callable[[Job], None]
        self._retire: Callable[[Job], None]
        self._actions: dict[int, Callable[[Job], None]] = {
            DEPEND: self._on_depend,
            PRIORITY: self._on_priority,
            SCHED: self._on_sched,
            RUN: self._on_run,
            CLEANUP: self._on_cleanup,
            INACTIVE: self._on_inactive,
        }

    def connect(self, scheduling: Scheduling, start: Callable[[Job], None], retire: Callable[[Job], None]) -> None:
        """Name the parts that act on jobs, which themselves post events and so are made later than this."""
        self._scheduling = scheduling
        self._start = start
        self._retire = retire

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for each event of every job from now on."""
        self._listeners.append(listener)

    def listen_states(self, listener: Callable[[Job, int], None]) -> None:
        """Call ``listener`` with a job and its former state whenever the state changes."""
        self._state_listeners.append(listener)

    def post(self, job: Job, name: str, context: dict[str, Any] | None = None, *, commit: bool = True) -> None:
        """Post an event. While another event of the same job is in work, the new one waits.

        Raises FluxError EROFS if the job's log is closed.
        """
        if job.is_readonly:
            raise FluxError(errno.EROFS)
        event = make_event(name, context, timestamp=self._clock.time())
        job.queued_events.append((event, commit))
        if len(job.queued_events) == 1 and not job.is_held:
            self.drain(job)

    def raise_exception(
        self,
        job: Job,
        kind: str,
        severity: int,
        note: str = "",
        userid: int | None = None,
        wait_status: int | None = None,
    ) -> None:
        """Post an exception, and publish it as flux-core does (src/modules/job-manager/raise.c)."""
        context: dict[str, Any] = {"type": kind, "severity": severity, "note": note}
        context["userid"] = self.owner if userid is None else userid
        published = {"id": job.id, "type": kind, "severity": severity}
        if wait_status is not None:
            context["wait_status"] = published["wait_status"] = wait_status
        self.post(job, "exception", context)
        self._router.publish("job-exception", encode_json(published), private=True)

    def drain(self, job: Job) -> None:
        """Work off the events that wait."""
        queued = job.queued_events
        while queued and not job.is_readonly:
            event, commit = queued[0]
            try:
                self._process(job, event, commit)
            finally:
                queued.popleft()
        queued.clear()

    def admit(self, job: Job) -> None:
        """Apply the events of a job that was held for checks; later events wait until these are in the KVS."""
        waiting = list(job.queued_events)
        job.queued_events.clear()
        for event, commit in waiting:
            self._process(job, event, commit)

        def release(_: int) -> None:
            job.is_held = False
            self.drain(job)

        self._batch.afterwards(release)

    def _process(self, job: Job, event: Event, commit: bool) -> None:
        before = job.state
        apply_event(job, event)
        if commit:
            line = encode_event(event)
            job.record(line)
            self._batch.append(job.id, line)
        for listener in self._listeners:
            listener(job, event, commit)
        if job.state != before:
            self._table.running += bool(job.state & RUNNING) - bool(before & RUNNING)
            for state_listener in self._state_listeners:
                state_listener(job, before)
            if job.state == PRIORITY:
                self._prioritize(job)
        self.act(job)

    def act(self, job: Job) -> None:
        """Do what the job's state asks for."""
        action = self._actions.get(job.state)
        if action is not None:
            action(job)

    def _is_queued(self, job: Job, name: str) -> bool:
        # The first in the queue is the one in work.
        return len(job.queued_events) > 1 and any(event["name"] == name for event, _ in job.queued_events)

    def _on_depend(self, job: Job) -> None:
        if not job.dependencies and not job.depend_posted and not self._is_queued(job, "dependency-add"):
            job.depend_posted = True
            self.post(job, "depend")

    def _on_priority(self, job: Job) -> None:
        self._scheduling.dequeue(job)

    def _prioritize(self, job: Job) -> None:
        """Make the urgency the priority (flux-core's plugin priority-default)."""
        priority = job.urgency
        if job.urgency == URGENCY_HOLD:
            priority = PRIORITY_MIN
        elif job.urgency == URGENCY_EXPEDITE:
            priority = PRIORITY_MAX
        self.post(job, "priority", {"priority": priority})

    def _on_sched(self, job: Job) -> None:
        self._scheduling.enqueue(job)

    def _on_run(self, job: Job) -> None:
        if not job.perilogs and not self._is_queued(job, "prolog-start"):
            self._start(job)

    def _on_cleanup(self, job: Job) -> None:
        self._scheduling.dequeue(job)
        if job.start_pending or job.perilogs or self._is_queued(job, "epilog-start"):
            return
        if job.has_resources and not job.free_posted:
            job.free_posted = True
            self._scheduling.free(job)
            self.post(job, "free")
        elif not job.has_resources and not self._is_queued(job, "clean"):
            self.post(job, "clean")

    def _on_inactive(self, job: Job) -> None:
        job.is_readonly = True
        self._retire(job)
