"""`job-manager`: everything that is done to jobs."""

from __future__ import annotations

import errno
import json
import signal

from pytest_flux.broker.jobs.service import authorize
from pytest_flux.broker.service import ALL, LATER, Answer, Request, _Later, method
from pytest_flux.broker.services.job_questions import JobQuestions
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.job_state import RUNNING, URGENCY_DEFAULT, URGENCY_MAX, URGENCY_MIN

_ANY_USER = 2**32 - 1


class JobManagerService(JobQuestions):
    """Requests in, events out."""

    name = "job-manager"

    # -- exceptions and signals

    @method("raise", roles=ALL)
    def raise_exception(self, request: Request) -> Answer:
        """``{id, type, severity, note?, wait_status?}`` → empty."""
        kind, severity = _exception(request)
        job = self.manager.find_active(request.field("id", int), errno.ENOENT)
        authorize(request, job, "guests can only raise exceptions on their own jobs")
        self.manager.raise_exception(
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
        jobs = [
            job for job in self.manager.active.values() if job.state & states and userid in (_ANY_USER, job.userid)
        ]
        for job in [] if dry_run else jobs:
            self.manager.raise_exception(job, kind, severity, note, request.message.userid)
        return {"count": len(jobs), "errors": 0}

    @method("kill", roles=ALL)
    def kill(self, request: Request) -> Answer:
        """``{id, signum}`` → empty."""
        job_id, signum = request.field("id", int), _signal(request)
        job = self.manager.find_active(job_id, errno.EINVAL)
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
            for job in self.manager.active.values()
            if job.state & RUNNING and userid in (_ANY_USER, job.userid)
        ]
        for job_id in [] if dry_run else ids:
            self._publish_kill(job_id, signum)
        return {"count": len(ids), "errors": 0}

    def _publish_kill(self, job_id: int, signum: int) -> None:
        payload = json.dumps({"signum": signum}).encode() + b"\0"
        self.router.publish(f"shell-{job_id}.kill", payload)

    # -- changes

    @method("urgency", roles=ALL)
    def urgency(self, request: Request) -> Answer:
        """``{id, urgency}`` → ``{old_urgency}``."""
        job_id, urgency = request.field("id", int), request.field("urgency", int)
        if not URGENCY_MIN <= urgency <= URGENCY_MAX:
            raise FluxError(errno.EINVAL, "urgency value is out of range")
        job = self.manager.find_active(job_id, errno.EINVAL, "unknown job")
        authorize(request, job, "guests can only reprioritize their own jobs")
        if not request.is_owner and urgency > max(URGENCY_DEFAULT, job.urgency):
            raise FluxError(errno.EPERM, "guests can only adjust urgency <= default")
        if job.has_resources:
            raise FluxError(errno.EINVAL, "urgency cannot be changed once resources are allocated")
        before = job.urgency
        context = {"userid": request.message.userid, "urgency": urgency}
        self.manager.events.post(job, "urgency", context)
        return {"old_urgency": before}

    @method("memo", roles=ALL)
    def memo(self, request: Request) -> Answer:
        """``{id, volatile?, memo: {}}`` → empty."""
        job_id, memo = request.field("id", int), request.field("memo", dict)
        volatile = request.field("volatile", bool, False)
        job = self.manager.find_active(job_id, errno.ENOENT)
        authorize(request, job, "guests can only add a memo to their own jobs")
        self.manager.events.post(job, "memo", memo, commit=not volatile)
        return None

    @method("update", roles=ALL)
    def update(self, request: Request) -> Answer:
        """``{id, updates: {path: value}}`` → empty."""
        job_id = request.field("id", int)
        request.field("updates", dict)
        known = job_id in self.manager.inactive
        job = self.manager.find_active(job_id, errno.EINVAL if known else errno.ENOENT)
        authorize(request, job, "guests may only update their own jobs")
        self.manager.update.request(request, job)
        return None

    @method("post-event.post")
    def post_event(self, request: Request) -> Answer:
        """``{id, name, context?}`` → empty."""
        job_id, name = request.field("id", int), request.field("name", str)
        context = request.field("context", dict, None)
        job = self.manager.active.get(job_id)
        if job is None:
            raise FluxError(errno.ENOENT)
        try:
            self.manager.events.post(job, name, context)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return None

    # -- waiting

    @method("wait")
    def wait(self, request: Request) -> _Later:
        """``{id}``, -1 for any → ``{id, success, errstr}`` when a waitable job has ended."""
        self.manager.waits.wait(request, request.field("id", int))
        return LATER

    @method("drain")
    def drain(self, request: Request) -> _Later:
        """→ empty, when no job is active."""
        self.manager.waits.drain(request)
        return LATER

    @method("idle")
    def idle(self, request: Request) -> _Later:
        """→ ``{pending}``, when no job runs."""
        self.manager.waits.idle(request)
        return LATER

    @method("disconnect", roles=ALL)
    def disconnect(self, request: Request) -> Answer:
        """A client is gone."""
        self.manager.waits.forget(request.sender)
        return super().disconnect(request)

    # -- purging

    @method("purge")
    def purge(self, request: Request) -> _Later:
        """``{age_limit, num_limit, batch, force}`` → ``{count}``."""
        self.manager.purge.request(request)
        return LATER

    @method("purge-id")
    def purge_id(self, request: Request) -> _Later:
        """``{id, force}`` → ``{count}``."""
        self.manager.purge.request_id(request)
        return LATER

    # -- queues

    @method("queue-list", roles=ALL)
    def queue_list(self, request: Request) -> Answer:
        """→ ``{queues: [name]}``; none stands for the anonymous one."""
        return {"queues": self.manager.queues.names}

    @method("queue-status", roles=ALL)
    def queue_status(self, request: Request) -> Answer:
        """``{name?}`` → ``{enable, start, disable_reason?, stop_reason?}``."""
        queue = self.manager.queues.find(request.field("name", str, None))
        return queue.status(scheduler_is_online=self.manager.alloc.is_online)

    @method("queue-enable")
    def queue_enable(self, request: Request) -> Answer:
        """``{name?, enable, reason?, all}`` → empty."""
        self.manager.queues.enable(
            request.field("name", str, None),
            enable=request.field("enable", bool),
            reason=request.field("reason", str, None),
            everything=request.field("all", bool),
        )
        return None

    @method("queue-start")
    def queue_start(self, request: Request) -> Answer:
        """``{name?, start, reason?, all, nocheckpoint?}`` → empty."""
        self.manager.queues.start(
            request.field("name", str, None),
            start=request.field("start", bool),
            reason=request.field("reason", str, None),
            everything=request.field("all", bool),
            nocheckpoint=request.field("nocheckpoint", bool, False),
        )
        return None

    @method("config-reload")
    def config_reload(self, request: Request) -> Answer:
        """Take over ``[queues]`` and ``[job-manager]``."""
        config = request.json() if request.message.payload else self.manager.config
        self.manager.queues.configure(config)
        self.manager.purge.configure(config)
        return None


def _exception(request: Request) -> tuple[str, int]:
    kind, severity = request.field("type", str), request.field("severity", int)
    if not 0 <= severity <= 7:
        raise FluxError(errno.EPROTO, "invalid exception severity")
    if not kind or "=" in kind or any(character.isspace() for character in kind):
        raise FluxError(errno.EPROTO, "invalid exception type")
    return kind, severity


def _userid(request: Request) -> int:
    # Tools send FLUX_USERID_UNKNOWN either as -1 or as the unsigned number that it is.
    return request.field("userid", int) & _ANY_USER


def _signal(request: Request) -> int:
    signum = request.field("signum", int)
    if not 0 < signum < signal.NSIG:
        raise FluxError(errno.EINVAL, "Invalid signal number")
    return signum
