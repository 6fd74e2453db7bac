"""What each event does to a job (RFC 21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flux.protocol import job_state
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.job_state import INACTIVE, NEW, PRIORITY, SCHED, next_state

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.protocol.eventlog import Event

_TIMES = {
    job_state.DEPEND: "t_depend",
    job_state.PRIORITY: "t_priority",
    job_state.SCHED: "t_sched",
    job_state.RUN: "t_run",
    job_state.CLEANUP: "t_cleanup",
    job_state.INACTIVE: "t_inactive",
}
# A job that goes back to PRIORITY keeps the time when it was there first (flux-core's job-list does so).
_FIRST_TIME_COUNTS = frozenset((job_state.PRIORITY, job_state.SCHED))


def apply_event(job: Job, event: Event) -> None:
    """Change ``job`` as an event says (flux-core's event_job_update). ProtocolError for one that makes no sense."""
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
    """Merge ``changes`` into a job's annotations, recursively; null removes, and what is empty then goes, too."""
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
