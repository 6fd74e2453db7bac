"""What is asked of `job-manager`; what is done to jobs is in `job_manager`."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.service import JobService, authorize
from pytest_flux.broker.service import ALL, Answer, Request, _Later, method
from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job

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


class JobQuestions(JobService):
    """The half of the service that changes nothing."""

    # -- questions

    @method("list")
    def list_jobs(self, request: Request) -> Answer:
        """``{max_entries}`` → ``{jobs: [{id, userid, urgency, priority, t_submit, state, annotations?, …}]}``."""
        limit = request.field("max_entries", int)
        if limit < 0:
            raise FluxError(errno.EPROTO)
        manager = self.manager
        queued = list(manager.alloc.scheduler)
        others = [job for job in manager.active.values() if not job.is_queued]
        jobs = (queued + others)[: limit or None] + list(manager.waits.zombies.values())
        return {"jobs": [_listed(job) for job in jobs]}

    @method("getattr", roles=ALL)
    def getattr(self, request: Request) -> Answer:
        """``{id, attrs: [jobspec|R|eventlog]}`` → these."""
        job_id, names = request.field("id", int), request.field("attrs", list)
        job = self.manager.find(job_id)
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
        return {"max_jobid": self.manager.max_jobid}

    @method("alloc-query", roles=ALL)
    def alloc_query(self, request: Request) -> Answer:
        """→ ``{queue_length, alloc_pending, running}``."""
        return dict(self.manager.alloc.counts())

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{journal, active_jobs, inactive_jobs, max_jobid, housekeeping}``."""
        manager = self.manager
        return {
            "journal": {"listeners": len(manager.journal), "events": manager.journal.count},
            "active_jobs": len(manager.active),
            "inactive_jobs": len(manager.inactive),
            "max_jobid": manager.max_jobid,
            "housekeeping": {"running": {}, "config": {"release-after": -1.0, "command": ""}},
        }

    @method("history.get", roles=ALL)
    def history_get(self, request: Request) -> Answer:
        """``{slice: "[first:last:step]"}`` → ``{jobs: [id]}`` of the user, the newest being number 0."""
        userid = request.message.userid
        match = re.fullmatch(r"\[(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?\]", request.field("slice", str))
        parts = [int(part) if part else None for part in match.groups()] if match else []
        if match is None or parts[2] == 0:
            raise FluxError(errno.EINVAL, "could not parse python-style slice expression")
        found = (self.manager.find(job_id) for job_id in reversed(self.manager.history))
        ids = [job.id for job in found if job is not None and job.userid == userid]
        return {"jobs": ids[slice(*parts)]}

    @method("events-journal")
    def events_journal(self, request: Request) -> _Later:
        """``{allow?, deny?, full?}``, streaming → ``{id, events, jobspec?, R?}``, after the past ``{id: -1}``."""
        self.manager.journal.add(request)
        return self.hold(request)

    @method("events-journal-cancel")
    def events_journal_cancel(self, request: Request) -> Answer:
        """End a stream of events."""
        return super().cancel(request)

    def abandoned(self, request: Request) -> None:
        """A listener is gone."""
        self.manager.journal.remove(request)

    @method("jobtap")
    def jobtap(self, request: Request) -> Answer:
        """``{query_only: true}`` → ``{plugins}``: what flux-core builds in is built in here, too; no others."""
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
        """``{name}`` → what a plugin tells of itself."""
        name = request.field("name", str)
        if name not in _BUILTINS:
            raise FluxError(errno.ENOENT, f"{name}: plugin not found")
        answer: dict[str, Any] = {"name": name, "path": "builtin"}
        if name == ".dependency-after":
            answer["dependencies"] = self.manager.dependencies.query()
        return answer


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
