"""Dependencies: after*, begin-time, singleton (RFC 26).

Texts and events are those of flux-core's plugins (src/modules/job-manager/plugins): dependency-after.c, begin-time.c,
dependency-singleton.c.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.broker.jobs.job import JOBID_ANY
from pytest_flux.protocol.duration import parse_timestamp
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import COMPLETED, DEPEND, INACTIVE, NEW
from pytest_flux.protocol.jobspec import system_attributes

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.events import Events
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

_START, _FINISH, _SUCCESS, _FAILURE, _EXCEPT = (
    "after-start",
    "after-finish",
    "after-success",
    "after-failure",
    "after-except",
)
_AFTER = {
    "after": _START,
    "afterstart": _START,
    "afterany": _FINISH,
    "afterok": _SUCCESS,
    "afternotok": _FAILURE,
    "afterexcept": _EXCEPT,
}


class _After(NamedTuple):
    """``job`` waits for another job."""

    job: Job
    kind: str
    description: str


def _reject(text: str) -> FluxError:
    return FluxError(errno.EINVAL, text)


class Dependencies:
    """Adds the dependencies of a jobspec on submission, and removes each when it is fulfilled."""

    def __init__(self, reactor: Reactor, table: JobTable, events: Events) -> None:
        self._reactor = reactor
        self._table = table
        self._events = events
        self._waiting: dict[int, list[_After]] = {}
        self._timers: dict[int, list[Timer]] = {}
        self._singletons: dict[tuple[int, str], list[Job]] = {}
        self._active_names: dict[tuple[int, str], int] = {}
        events.listen(self._event)
        events.listen_states(self._state)

    def check(self, job: Job) -> None:
        """Add the dependencies of a job. Raises FluxError EINVAL for one that is refused."""
        dependencies = system_attributes(job.jobspec).get("dependencies") or []
        if not isinstance(dependencies, list):
            raise _reject("dependencies object must be an array")
        for index, dependency in enumerate(dependencies):
            scheme = dependency.get("scheme") if isinstance(dependency, dict) else None
            if not isinstance(scheme, str):
                raise _reject(f"dependency[{index}] missing string scheme")
            value = dependency.get("value")
            if scheme in _AFTER:
                self._check_after(job, scheme, value)
            elif scheme == "begin-time":
                self._check_begin_time(job, value)
            elif scheme == "singleton":
                self._check_singleton(job)
            else:
                raise _reject(f'dependency scheme "{scheme[:80]}" not supported')

    def _add(self, job: Job, description: str) -> None:
        if description not in job.dependencies:
            self._events.post(job, "dependency-add", {"description": description})

    def _remove(self, job: Job, description: str) -> None:
        if job.state in (NEW, DEPEND):
            self._events.post(job, "dependency-remove", {"description": description})

    # -- after*

    def _check_after(self, job: Job, scheme: str, value: object) -> None:
        kind = _AFTER[scheme]
        try:
            target_id = parse_fluid(value) if isinstance(value, str) else JOBID_ANY
        except ProtocolError:
            target_id = JOBID_ANY
        if target_id == JOBID_ANY:
            raise _reject(f'dependency: {scheme}: "{value}" is not a valid jobid')
        target = self._table.find(target_id)
        if target is None:
            raise _reject(f"dependency: {scheme}: id {value}: job not found")
        if target.userid != job.userid:
            raise _reject(f"{scheme}: Permission denied for job {value}")
        if scheme == "after":
            note = "dependency scheme 'after' is deprecated, use 'afterstart'"
            self._events.raise_exception(job, "dependency", 3, note)
        description = f"{kind}={value}"
        if target.state == INACTIVE:
            self._check_inactive(target, kind, str(value))
        # Posted even if it is fulfilled already, as in flux-core, so that the log shows it.
        self._add(job, description)
        if target.state == INACTIVE or (kind == _START and target.was_started):
            self._remove(job, description)
        else:
            self._waiting.setdefault(target_id, []).append(_After(job, kind, description))

    @staticmethod
    def _check_inactive(target: Job, kind: str, value: str) -> None:
        if (kind != _FINISH and not target.was_allocated) or (kind == _START and not target.was_started):
            raise _reject(f"dependency: after: {value} never started")
        if kind == _SUCCESS and target.result != COMPLETED:
            raise _reject(f"dependency: afterok: job {value} failed or was canceled")
        if kind == _FAILURE and target.result == COMPLETED:
            raise _reject(f"dependency: afternotok: job {value} succeeded")
        if kind == _EXCEPT and not target.ended_by_exception:
            raise _reject(f"dependency: afterexcept: job {value}: no exception")

    def _release(self, target: Job, kinds: set[str]) -> None:
        waiting = self._waiting.pop(target.id, [])
        left = [after for after in waiting if after.kind not in kinds]
        if left:
            self._waiting[target.id] = left
        for after in waiting:
            if after.kind in kinds:
                self._remove(after.job, after.description)

    def _finish(self, target: Job) -> None:
        if target.id not in self._waiting:
            return
        note = "can never be satisfied"
        if not target.was_allocated:
            self._release(target, {_FINISH})
            note = "job never started"
        elif target.result == COMPLETED:
            self._release(target, {_FINISH, _SUCCESS})
        else:
            self._release(target, {_FINISH, _FAILURE, *([_EXCEPT] if target.ended_by_exception else [])})
        for after in self._waiting.pop(target.id, []):
            if not after.job.is_readonly:
                text = f"dependency {after.description} {note}"
                self._events.raise_exception(after.job, "dependency", 0, text)

    # -- begin-time

    def _check_begin_time(self, job: Job, value: object) -> None:
        try:
            begin = parse_timestamp(value) if isinstance(value, str) else -1.0
        except ProtocolError:
            begin = -1.0
        if begin < 0 or math.isinf(begin):
            raise _reject(f"Invalid begin-time={value}")
        description = f"begin-time={begin:.3f}"
        self._add(job, description)
        delay = max(0.0, begin - self._reactor.clock.time())
        timer = self._reactor.clock.call_later(delay, lambda: self._remove(job, description))
        self._timers.setdefault(job.id, []).append(timer)

    # -- singleton

    def _check_singleton(self, job: Job) -> None:
        name = job.name
        if name is None:
            raise _reject("singleton jobs require a job name")
        key = (job.userid, name)
        if self._active_names.get(key):
            self._add(job, "singleton")
            self._singletons.setdefault(key, []).append(job)

    def admitted(self, job: Job) -> None:
        """Count an active job for those that wait as singletons."""
        name = job.name
        if name is not None:
            key = (job.userid, name)
            self._active_names[key] = self._active_names.get(key, 0) + 1

    def _count_down(self, job: Job) -> None:
        name = job.name
        if name is None:
            return
        key = (job.userid, name)
        waiting = self._singletons.get(key, [])
        if job in waiting:
            waiting.remove(job)
        count = self._active_names.get(key, 0) - 1
        if waiting and count == len(waiting):
            self._remove(waiting.pop(0), "singleton")
        if not waiting:
            self._singletons.pop(key, None)
        if count > 0:
            self._active_names[key] = count
        else:
            self._active_names.pop(key, None)

    # -- events of jobs

    def _event(self, job: Job, event: Event, _: bool) -> None:
        if event["name"] == "start" and job.id in self._waiting:
            self._release(job, {_START})

    def _state(self, job: Job, before: int) -> None:
        if before == DEPEND:
            for timer in self._timers.pop(job.id, []):
                timer.cancel()
        if job.state == INACTIVE:
            self._finish(job)
            self._count_down(job)

    def forget(self, job: Job) -> None:
        """Drop all dependencies of a job that is refused."""
        for timer in self._timers.pop(job.id, []):
            timer.cancel()
        for target, waiting in list(self._waiting.items()):
            self._waiting[target] = [after for after in waiting if after.job is not job]
        for singletons in self._singletons.values():
            if job in singletons:
                singletons.remove(job)

    def query(self) -> list[dict[str, Any]]:
        """Return what ``jobtap query .dependency-after`` shows."""
        return [
            {"id": target, "depid": after.job.id, "type": after.kind, "description": after.description}
            for target, waiting in self._waiting.items()
            for after in waiting
        ]
