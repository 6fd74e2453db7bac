"""One job as the job manager holds it: the result of its events."""

from __future__ import annotations

import errno
import json
from collections import deque
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.facts import Facts, job_facts
from pytest_flux.broker.jobs.store import encode_value
from pytest_flux.protocol import job_state
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import Event, decode_eventlog
from pytest_flux.protocol.job_state import NEW, job_result
from pytest_flux.protocol.jobspec import set_path, system_attributes

if TYPE_CHECKING:
    from pytest_flux.broker.service import Request

JOBID_ANY = 2**64 - 1
"""flux-core's FLUX_JOBID_ANY: no job has this id."""

# Shared by all inactive jobs: an empty deque takes more than 600 bytes.
_NO_EVENTS: deque[tuple[Event, bool]] = deque(maxlen=0)


class Job:
    """State, times and data of a job. ``jobspec`` is without environment, ``R`` without scheduling part.

    An inactive job keeps its jobspec, R and events as text; the properties decode them when asked.
    """

    __slots__ = (
        "_R",
        "_R_text",
        "_facts",
        "_jobspec",
        "_jobspec_text",
        "_lines",
        "annotations",
        "depend_posted",
        "dependencies",
        "ended_by",
        "environment",
        "exception_note",
        "exception_severity",
        "exception_type",
        "flags",
        "free_posted",
        "had_dependencies",
        "has_resources",
        "id",
        "is_held",
        "is_immutable",
        "is_queued",
        "is_readonly",
        "perilogs",
        "priority",
        "queued_events",
        "start_pending",
        "state",
        "states_mask",
        "succeeded",
        "t_cleanup",
        "t_depend",
        "t_inactive",
        "t_priority",
        "t_run",
        "t_sched",
        "t_submit",
        "urgency",
        "userid",
        "wait_status",
        "waiter",
        "was_allocated",
        "was_released",
        "was_started",
    )

    def __init__(self, id: int, jobspec: dict[str, Any], text: bytes | None = None) -> None:
        self.id = id
        self._jobspec: dict[str, Any] | bytes = jobspec
        self._jobspec_text = text
        self._R: dict[str, Any] | bytes | None = None
        self._R_text: bytes | None = None
        self._lines: list[str] | bytes = []
        self._facts: Facts | None = None
        self.userid = 0
        self.urgency = job_state.URGENCY_DEFAULT
        self.priority = -1
        self.flags = 0
        self.state = NEW
        self.states_mask = NEW
        self.t_submit = self.t_depend = self.t_priority = self.t_sched = 0.0
        self.t_run = self.t_cleanup = self.t_inactive = 0.0
        self.annotations: dict[str, Any] | None = None
        self.dependencies: list[str] = []
        self.had_dependencies = False
        self.environment: dict[str, str] | None = None
        self.exception_type: str | None = None
        self.exception_severity = 0
        self.exception_note = ""
        self.ended_by = ""
        self.wait_status = -1
        self.succeeded = False
        self.was_allocated = self.was_started = self.was_released = self.has_resources = False
        self.depend_posted = self.free_posted = self.start_pending = False
        self.is_held = self.is_queued = self.is_readonly = self.is_immutable = False
        self.perilogs = 0
        self.queued_events: deque[tuple[Event, bool]] = deque()
        self.waiter: Request | None = None

    # -- data

    @property
    def jobspec(self) -> dict[str, Any]:
        """The jobspec, updates applied."""
        return _thaw(self._jobspec) if isinstance(self._jobspec, bytes) else self._jobspec

    @property
    def R(self) -> dict[str, Any] | None:  # noqa: N802 - the name that Flux gives it
        """The allocated resources (RFC 20), updates applied; None before there are any."""
        return _thaw(self._R) if isinstance(self._R, bytes) else self._R

    def set_resources(self, value: dict[str, Any], text: bytes | None = None) -> None:
        """Replace the resources; ``text`` is their JSON, if the caller has it."""
        self._R, self._R_text = value, text
        self._facts = None

    @property
    def eventlog(self) -> list[Event]:
        """All committed events."""
        lines = self._lines
        return decode_eventlog(_decode(lines) if isinstance(lines, bytes) else "".join(lines))

    @property
    def queue(self) -> str | None:
        """The named queue that the job is in."""
        queue = system_attributes(self.jobspec).get("queue")
        return queue if isinstance(queue, str) else None

    @property
    def name(self) -> str | None:
        """The name in the jobspec; not the one made from the command."""
        job = system_attributes(self.jobspec).get("job")
        name = job.get("name") if isinstance(job, dict) else None
        return name if isinstance(name, str) else None

    @property
    def facts(self) -> Facts:
        """What job-list shows of jobspec and R."""
        if self._facts is None:
            self._facts = job_facts(self.jobspec, self.R)
        return self._facts

    @property
    def ended_by_exception(self) -> bool:
        """Whether an exception came before the job could finish."""
        return self.ended_by == "exception"

    @property
    def result(self) -> int:
        """The result, once the job is inactive."""
        return job_result(self.succeeded, self.exception_type)

    def freeze(self) -> None:
        """Keep rarely used data of an inactive job in less memory."""
        _ = self.facts
        if isinstance(self._lines, list):
            self._lines = "".join(self._lines).encode("utf-8", "surrogatepass")
        if not isinstance(self._jobspec, bytes):
            self._jobspec = self._jobspec_text or encode_value(self._jobspec)
        if self._R is not None and not isinstance(self._R, bytes):
            self._R = self._R_text or encode_value(self._R)
        self._jobspec_text = self._R_text = self.environment = None
        self.queued_events = _NO_EVENTS

    # -- changes

    def record(self, line: str) -> None:
        """Add the line of an event to the job's log."""
        if isinstance(self._lines, list):
            self._lines.append(line)

    def update_jobspec(self, updates: dict[str, Any]) -> None:
        """Set members of the jobspec, by their paths."""
        jobspec = self.jobspec
        for path, value in updates.items():
            set_path(jobspec, path, value)
        self._jobspec, self._jobspec_text = jobspec, None
        self._facts = None


def _thaw(data: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_decode(data))
    return value


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def authorize(request: Request, job: Job, text: str | None = None) -> None:
    """Raise FluxError EPERM unless the request is from the instance owner or from the job's user."""
    if not request.is_owner and request.message.userid != job.userid:
        raise FluxError(errno.EPERM, text)
