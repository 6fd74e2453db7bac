"""`job-manager`: everything that is done to jobs, and questions about them."""

from __future__ import annotations

import errno
import re
import signal
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.job import authorize
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.job_state import RUNNING, URGENCY_DEFAULT, URGENCY_MAX, URGENCY_MIN
from pytest_flux.protocol.message import USERID_UNKNOWN, encode_json

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router

_BUILTINS = (
    ".priority-default",
    ".limit-job-size",
    ".limit-duration",
    ".dependency-after",
    ".dependency-singleton",
    ".begin-time",
    ".validate-duration",
    ".update-duration",
    ".history",
    ".post-event",
    ".update-queue",
)


class JobManagerService(Service):
    """Requests in, events out."""

    name = "job-manager"

    def __init__(self, router: Router, log: BrokerLog, manager: JobManager) -> None:
        super().__init__(router, log)
        self._manager = manager
        self._table = manager.table
        self._events = manager.events

    # -- flux-core's other parts, which are built in here

    @method("submit")
    def submit(self, request: Request) -> Answer:
        """``{jobs}``: refused. Jobs come from ``job-ingest``, which numbers them."""
        request.field("jobs", list)
        raise FluxError(errno.ENOSYS, "an embedded broker takes jobs through job-ingest.submit")

    @method("exec-hello")
    def exec_hello(self, request: Request) -> Answer:
        """``{service}``: refused. The executor is built in."""
        request.field("service", str)
        raise FluxError(errno.ENOSYS, "an embedded broker runs jobs itself")

    @method("sched-ready")
    def sched_ready(self, request: Request) -> Answer:
        """``{mode}``: refused. The scheduler is built in."""
        request.field("mode", str)
        raise FluxError(errno.ENOSYS, "an embedded broker schedules jobs itself")

    # -- exceptions and signals

    @method("raise", roles=ALL)
    def raise_exception(self, request: Request) -> Answer:
        """``{id, type, severity, note?, wait_status?}`` → empty."""
        kind, severity = _exception(request)
        job = self._table.find_active(request.field("id", int), errno.ENOENT)
        authorize(request, job, "guests can only raise exceptions on their own jobs")
        self._events.raise_exception(
            job,
            kind,
            severity,
            request.field("note", str, ""),
            request.message.userid,
            request.field("wait_status", int, None),
        )
        return None

    @method("raiseall", roles=ALL)
    def raise_all(self, request: Request) -> Answer:
        """``{dry_run, userid, states, severity, type, note?}`` → ``{count, errors}``."""
        states = request.field("states", int)
        dry_run, userid = request.field("dry_run", bool), _userid(request)
        if not request.is_owner and userid != request.message.userid:
            raise FluxError(errno.EPERM, "guests can only raise exceptions on their own jobs")
        kind, severity = _exception(request)
        note = request.field("note", str, "")
        active = self._table.active.values()
        jobs = [job for job in active if job.state & states and userid in (USERID_UNKNOWN, job.userid)]
        for job in [] if dry_run else jobs:
            self._events.raise_exception(job, kind, severity, note, request.message.userid)
        return {"count": len(jobs), "errors": 0}

    @method("kill", roles=ALL)
    def kill(self, request: Request) -> Answer:
        """``{id, signum}`` → empty."""
        job_id, signum = request.field("id", int), _signal(request)
        job = self._table.find_active(job_id, errno.EINVAL)
        authorize(request, job, "guests may only send signals to their own jobs")
        if not job.state & RUNNING:
            raise FluxError(errno.EINVAL, "job is not running")
        self._publish_kill(job.id, signum)
        return None

    @method("killall", roles=ALL)
    def kill_all(self, request: Request) -> Answer:
        """``{dry_run, userid, signum}`` → ``{count, errors}``."""
        dry_run, userid = request.field("dry_run", bool), _userid(request)
        if not request.is_owner and userid != request.message.userid:
            raise FluxError(errno.EPERM, "guests can only kill their own jobs")
        signum = _signal(request)
        ids = [
            job.id
            for job in self._table.active.values()
            if job.state & RUNNING and userid in (USERID_UNKNOWN, job.userid)
        ]
        for job_id in [] if dry_run else ids:
            self._publish_kill(job_id, signum)
        return {"count": len(ids), "errors": 0}

    def _publish_kill(self, job_id: int, signum: int) -> None:
        self.router.publish(f"shell-{job_id}.kill", encode_json({"signum": signum}))

    # -- changes

    @method("urgency", roles=ALL)
    def urgency(self, request: Request) -> Answer:
        """``{id, urgency}`` → ``{old_urgency}``."""
        job_id, urgency = request.field("id", int), request.field("urgency", int)
        if not URGENCY_MIN <= urgency <= URGENCY_MAX:
            raise FluxError(errno.EINVAL, "urgency value is out of range")
        job = self._table.find_active(job_id, errno.EINVAL, "unknown job")
        authorize(request, job, "guests can only reprioritize their own jobs")
        if not request.is_owner and urgency > max(URGENCY_DEFAULT, job.urgency):
            raise FluxError(errno.EPERM, "guests can only adjust urgency <= default")
        if job.has_resources:
            raise FluxError(errno.EINVAL, "urgency cannot be changed once resources are allocated")
        before = job.urgency
        context = {"userid": request.message.userid, "urgency": urgency}
        self._events.post(job, "urgency", context)
        return {"old_urgency": before}

    @method("memo", roles=ALL)
    def memo(self, request: Request) -> Answer:
        """``{id, volatile?, memo: {}}`` → empty."""
        job_id, memo = request.field("id", int), request.field("memo", dict)
        volatile = request.field("volatile", bool, False)
        job = self._table.find_active(job_id, errno.ENOENT)
        authorize(request, job, "guests can only add a memo to their own jobs")
        self._events.post(job, "memo", memo, commit=not volatile)
        return None

    @method("update", roles=ALL)
    def update(self, request: Request) -> Answer:
        """``{id, updates: {path: value}}`` → empty."""
        job_id = request.field("id", int)
        request.field("updates", dict)
        known = job_id in self._table.inactive
        job = self._table.find_active(job_id, errno.EINVAL if known else errno.ENOENT)
        authorize(request, job, "guests may only update their own jobs")
        self._manager.update.request(request, job)
        return None

    @method("post-event.post")
    def post_event(self, request: Request) -> Answer:
        """``{id, name, context?}`` → empty."""
        job_id, name = request.field("id", int), request.field("name", str)
        context = request.field("context", dict, None)
        job = self._table.active.get(job_id)
        if job is None:
            raise FluxError(errno.ENOENT)
        try:
            self._events.post(job, name, context)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return None

    # -- waiting

    @method("wait")
    def wait(self, request: Request) -> _Later:
        """``{id}``, -1 for any → ``{id, success, errstr}`` when a waitable job ends."""
        self._manager.waits.wait(request, request.field("id", int))
        return LATER

    @method("drain")
    def drain(self, request: Request) -> _Later:
        """Answer when no job is active."""
        self._manager.waits.drain(request)
        return LATER

    @method("idle")
    def idle(self, request: Request) -> _Later:
        """Answer ``{pending}`` when no job runs."""
        self._manager.waits.idle(request)
        return LATER

    @method("disconnect", roles=ALL)
    def disconnect(self, request: Request) -> Answer:
        """See Service."""
        self._manager.waits.forget(request.sender)
        return super().disconnect(request)

    # -- purging

    @method("purge")
    def purge(self, request: Request) -> _Later:
        """``{age_limit, num_limit, batch, force}`` → ``{count}``."""
        self._manager.purge.request(request)
        return LATER

    @method("purge-id")
    def purge_id(self, request: Request) -> _Later:
        """``{id, force}`` → ``{count}``."""
        self._manager.purge.request_id(request)
        return LATER

    # -- queues

    @method("queue-list", roles=ALL)
    def queue_list(self, request: Request) -> Answer:
        """→ ``{queues: [name], conf}``; without names if there is only the anonymous queue.

        flux-core 0.88.0 has no ``conf`` yet, but PyPI's `flux-python` 0.88.0 was made after it: ``flux.queue`` asks
        for it, and fails where it is missing.
        """
        queues = self._manager.queues
        return {"queues": queues.names, "conf": queues.settings}

    @method("queue-status", roles=ALL)
    def queue_status(self, request: Request) -> Answer:
        """``{name?}`` → ``{enable, start, disable_reason?, stop_reason?}``."""
        queue = self._manager.queues.find(request.field("name", str, None))
        return queue.status(scheduler_is_online=self._manager.alloc.is_online)

    @method("queue-enable")
    def queue_enable(self, request: Request) -> Answer:
        """``{name?, enable, reason?, all}`` → empty."""
        self._manager.queues.enable(
            request.field("name", str, None),
            enable=request.field("enable", bool),
            reason=request.field("reason", str, None),
            everything=request.field("all", bool),
        )
        return None

    @method("queue-start")
    def queue_start(self, request: Request) -> Answer:
        """``{name?, start, reason?, all, nocheckpoint?}`` → empty."""
        self._manager.queues.start(
            request.field("name", str, None),
            start=request.field("start", bool),
            reason=request.field("reason", str, None),
            everything=request.field("all", bool),
            nocheckpoint=request.field("nocheckpoint", bool, False),
        )
        return None

    def configure(self, config: dict[str, Any]) -> None:
        """See Service."""
        self._manager.configure(config)

    # -- questions

    @method("list")
    def list_jobs(self, request: Request) -> Answer:
        """``{max_entries}`` → ``{jobs: [{id, userid, urgency, priority, t_submit, state, annotations?, …}]}``."""
        limit = request.field("max_entries", int)
        if limit < 0:
            raise FluxError(errno.EPROTO)
        queued = list(self._manager.scheduler)
        others = [job for job in self._table.active.values() if not job.is_queued]
        jobs = (queued + others)[: limit or None] + list(self._manager.waits.zombies.values())
        return {"jobs": [_listed(job) for job in jobs]}

    @method("getattr", roles=ALL)
    def getattr(self, request: Request) -> Answer:
        """``{id, attrs: [jobspec|R|eventlog]}`` → ``{<attr>: value}``."""
        job_id, names = request.field("id", int), request.field("attrs", list)
        job = self._table.find(job_id)
        if job is None:
            raise FluxError(errno.EINVAL, "unknown job")
        authorize(request, job, "guests can only access their own jobs")
        answer: dict[str, Any] = {}
        for name in names:
            if not isinstance(name, str):
                raise FluxError(errno.EPROTO, "attribute list contains non-string")
            if name not in ("jobspec", "R", "eventlog"):
                raise FluxError(errno.ENOENT, f"unknown attr {name}")
            answer[name] = getattr(job, name)
            if answer[name] is None:
                raise FluxError(errno.ENOENT, f"{name} is NULL")
        return answer

    @method("getinfo", roles=ALL)
    def getinfo(self, request: Request) -> Answer:
        """→ ``{max_jobid}``."""
        return {"max_jobid": self._table.max_jobid}

    @method("alloc-query", roles=ALL)
    def alloc_query(self, request: Request) -> Answer:
        """→ ``{queue_length, alloc_pending, running}``."""
        return dict(self._manager.alloc.counts())

    @method("resource-status")
    def resource_status(self, request: Request) -> Answer:
        """→ ``{allocated}``: the R of all active jobs together."""
        return {"allocated": self._manager.alloc.allocated().encode()}

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{journal, active_jobs, inactive_jobs, max_jobid, housekeeping}``."""
        table, journal = self._table, self._manager.journal
        return {
            "journal": {"listeners": len(journal), "events": journal.count},
            "active_jobs": len(table.active),
            "inactive_jobs": len(table.inactive),
            "max_jobid": table.max_jobid,
            "housekeeping": {"running": {}, "config": {"release-after": -1.0, "command": ""}},
        }

    @method("history.get", roles=ALL)
    def history_get(self, request: Request) -> Answer:
        """``{slice: "[first:last:step]"}`` → ``{jobs: [id]}`` of the user; number 0 is the newest."""
        userid = request.message.userid
        match = re.fullmatch(r"\[(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?\]", request.field("slice", str))
        parts = [int(part) if part else None for part in match.groups()] if match else []
        if match is None or parts[2] == 0:
            raise FluxError(errno.EINVAL, "could not parse python-style slice expression")
        found = (self._table.find(job_id) for job_id in reversed(self._table.history))
        ids = [job.id for job in found if job is not None and job.userid == userid]
        return {"jobs": ids[slice(*parts)]}

    @method("events-journal")
    def events_journal(self, request: Request) -> _Later:
        """``{allow?, deny?, full?}``, streaming → ``{id, events, jobspec?, R?}``; ``{id: -1}`` ends past events."""
        self._manager.journal.add(request)
        return self.hold(request)

    @method("events-journal-cancel")
    def events_journal_cancel(self, request: Request) -> Answer:
        """End a stream of events."""
        return super().cancel(request)

    def abandoned(self, request: Request) -> None:
        """See Service."""
        self._manager.journal.remove(request)

    @method("jobtap")
    def jobtap(self, request: Request) -> Answer:
        """``{query_only: true}`` → ``{plugins}``: those of flux-core are built in; others cannot be loaded."""
        if request.field("query_only", bool, False):
            return {"plugins": list(_BUILTINS)}
        if (name := request.field("remove", str, None)) is not None:
            raise FluxError(errno.ENOENT, f"Failed to find plugin to remove: {name}")
        if (path := request.field("load", str, None)) is not None:
            text = f"{path}: an embedded broker cannot load plugins: install flux-core for that"
            raise FluxError(errno.ENOSYS, text)
        return None

    @method("jobtap-query")
    def jobtap_query(self, request: Request) -> Answer:
        """``{name}`` → what a plugin reports about itself."""
        name = request.field("name", str)
        if name not in _BUILTINS:
            raise FluxError(errno.ENOENT, f"{name}: plugin not found")
        answer: dict[str, Any] = {"name": name, "path": "builtin"}
        if name == ".dependency-after":
            answer["dependencies"] = self._manager.dependencies.query()
        return answer


def _exception(request: Request) -> tuple[str, int]:
    kind, severity = request.field("type", str), request.field("severity", int)
    if not 0 <= severity <= 7:
        raise FluxError(errno.EPROTO, "invalid exception severity")
    if not kind or "=" in kind or any(character.isspace() for character in kind):
        raise FluxError(errno.EPROTO, "invalid exception type")
    return kind, severity


def _userid(request: Request) -> int:
    # Tools send FLUX_USERID_UNKNOWN either as -1 or as the unsigned number that it is.
    return request.field("userid", int) & USERID_UNKNOWN


def _signal(request: Request) -> int:
    signum = request.field("signum", int)
    if not 0 < signum < signal.NSIG:
        raise FluxError(errno.EINVAL, "Invalid signal number")
    return signum


def _listed(job: Job) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "id": job.id,
        "userid": job.userid,
        "urgency": job.urgency,
        "priority": job.priority,
        "t_submit": job.t_submit,
        "state": job.state,
    }
    if job.annotations:
        listed["annotations"] = job.annotations
    if job.dependencies:
        listed["dependencies"] = list(job.dependencies)
    return listed
