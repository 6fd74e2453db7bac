"""`job-list`: which jobs there are and were."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.listing import ATTRIBUTES, describe, readers
from pytest_flux.broker.jobs.match import Matcher, compile_match
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.job_state import ACTIVE, INACTIVE, NEW, PENDING, RUNNING
from pytest_flux.protocol.message import USERID_UNKNOWN

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.eventlog import Event

_STATS_DELAY = 0.2


class JobListService(Service):
    """Reads the job manager's jobs; nothing is kept twice."""

    name = "job-list"

    def __init__(self, router: Router, log: BrokerLog, manager: JobManager) -> None:
        super().__init__(router, log)
        self._table = manager.table
        self._batch = manager.batch
        self._stats = manager.stats
        self._reactor = manager.reactor
        self._waiting: dict[int, list[Request]] = {}
        self._is_armed = False
        self._is_paused = False
        # Tools ask for the caller's own jobs by default. A user who inspects the state of an ended instance, on a
        # laptop for example, is rarely a user of that instance.
        self._everybody = manager.owner if manager.is_recovery else USERID_UNKNOWN
        manager.events.listen(self._event)

    # -- lists

    @method("list", roles=ALL)
    def list_jobs(self, request: Request) -> Answer | _Later:
        """``{max_entries, attrs, since?, constraint?}`` → ``{jobs: [job]}``, streaming: one job at a time."""
        limit, since = request.field("max_entries", int), request.field("since", float, 0.0)
        if limit < 0:
            raise FluxError(errno.EPROTO, "invalid payload: max_entries < 0 not allowed")
        if since < 0:
            raise FluxError(errno.EPROTO, "invalid payload: since < 0.0 not allowed")
        chosen = readers(request.json().get("attrs"))
        try:
            constraint = request.json().get("constraint")
            match = compile_match(_legacy(request) if constraint is None else constraint, self._everybody)
        except ProtocolError as error:
            raise FluxError(errno.EPROTO, f"invalid payload: constraint object invalid: {error}") from None
        found = (describe(job, chosen) for job in self._select(match, since, limit))
        if not request.message.is_streaming:
            return {"jobs": list(found)}
        version: dict[str, Any] = {"version": 1}
        for described in found:
            request.respond({"jobs": [described], **version})
            version = {}
        request.finish()
        return LATER

    def _select(self, match: Matcher, since: float, limit: int) -> Iterator[Job]:
        """Yield pending, then running, then inactive jobs; each group in flux-core's order."""
        active = [job for job in self._table.active.values() if job.state != NEW and match(job)]
        pending = [job for job in active if job.state & PENDING]
        running = [job for job in active if job.state & RUNNING]
        pending.sort(key=lambda job: (-job.priority, job.id))
        running.sort(key=lambda job: job.t_run, reverse=True)
        yield from islice(self._chain(pending, running, since, match), limit or None)

    def _chain(self, pending: list[Job], running: list[Job], since: float, match: Matcher) -> Iterator[Job]:
        yield from pending
        yield from running
        for job in _latest_first(self._table.inactive.values()):
            if job.t_inactive <= since:
                return
            if match(job):
                yield job

    # -- one job

    @method("list-id", roles=ALL)
    def list_id(self, request: Request) -> Answer | _Later:
        """``{id, attrs, state?}`` → ``{job}``, once the job is or was in that state."""
        job_id, state = request.field("id", int), request.field("state", int, 0)
        chosen = readers(request.json().get("attrs"))
        if state & ~(ACTIVE | INACTIVE):
            raise FluxError(errno.EPROTO, "invalid payload: invalid state specified")
        job = self._table.find(job_id)
        if job is None:
            raise FluxError(errno.ENOENT)
        if not self._is_paused and _is_awaited(job, state):
            return {"job": describe(job, chosen)}
        self._waiting.setdefault(job_id, []).append(request)
        return self.hold(request)

    def abandoned(self, request: Request) -> None:
        """See Service."""
        for job_id, requests in list(self._waiting.items()):
            if request in requests:
                requests.remove(request)
                if not requests:
                    del self._waiting[job_id]

    def _event(self, job: Job, event: Event, _: bool) -> None:
        if self.held:
            self._arm_stats()
        if not self._is_paused:
            self._answer_waiting(job)

    def _answer_waiting(self, job: Job) -> None:
        waiting = self._waiting.get(job.id, [])
        for request in list(waiting):
            if _is_awaited(job, request.field("state", int, 0)):
                self.release(request)
                waiting.remove(request)
                answer = {"job": describe(job, readers(request.json().get("attrs")))}
                # The client may now look in the KVS for what belongs to that state.
                self._batch.afterwards(partial(_respond, request, answer))
        if not waiting:
            self._waiting.pop(job.id, None)

    @method("job-state-pause")
    def pause(self, request: Request) -> Answer:
        """→ empty. As if jobs changed no more: who asks for one job waits until ``job-state-unpause``."""
        self._is_paused = True
        return None

    @method("job-state-unpause")
    def unpause(self, request: Request) -> Answer:
        """→ empty."""
        self._is_paused = False
        for job in [self._table.find(job_id) for job_id in self._waiting]:
            if job is not None:
                self._answer_waiting(job)
        return None

    @method("list-attrs", roles=ALL)
    def list_attrs(self, request: Request) -> Answer:
        """→ ``{attrs: [name]}``."""
        return {"attrs": [*ATTRIBUTES, "all"]}

    # -- statistics

    @method("job-stats", roles=ALL)
    def job_stats(self, request: Request) -> Answer | _Later:
        """→ ``{job_states, successful, failed, canceled, timeout, inactive_purged, queues}``; may stream."""
        answer = self._stats.answer()
        if not request.message.is_streaming:
            return answer
        request.respond(answer)
        return self.hold(request)

    def _arm_stats(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            self._reactor.batch(_STATS_DELAY, self._send_stats)

    def _send_stats(self) -> None:
        self._is_armed = False
        for request in self.held_for("job-list.job-stats"):
            request.respond(self._stats.answer())

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{jobs: {pending, running, inactive}, idsync, stats_watchers}``."""
        states = [job.state for job in self._table.active.values()]
        return {
            "jobs": {
                "pending": sum(bool(state & PENDING) for state in states),
                "running": sum(bool(state & RUNNING) for state in states),
                "inactive": len(self._table.inactive),
            },
            "idsync": {"lookups": 0, "waits": len(self._waiting)},
            "stats_watchers": sum(1 for _ in self.held_for("job-list.job-stats")),
        }


def _respond(request: Request, answer: dict[str, Any], _: int) -> None:
    request.respond(answer)


def _is_awaited(job: Job, state: int) -> bool:
    if job.state == NEW:
        return False
    return not state or bool(job.states_mask & state) or job.state == INACTIVE


def _latest_first(jobs: Iterable[Job]) -> Iterator[Job]:
    # Jobs are in the order of their ends; those that end at the same time are sorted by id.
    ordered = list(jobs)
    ordered.reverse()
    if any(first.t_inactive <= second.t_inactive for first, second in pairwise(ordered)):
        ordered.sort(key=lambda job: (job.t_inactive, job.id), reverse=True)
    return iter(ordered)


def _legacy(request: Request) -> dict[str, Any] | None:
    """The constraint for a request of tools that are older than constraints (RFC 31)."""
    payload = request.json()
    if "constraint" in payload or not {"userid", "states", "results"} <= payload.keys():
        return None
    parts: list[dict[str, Any]] = [{"userid": [payload["userid"]]}]
    parts += [{key: [payload[key]]} for key in ("name", "queue", "states", "results") if payload.get(key)]
    return {"and": parts}
