"""Jobs that were there before: read from the KVS when the job manager begins (flux-core's restart.c)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.changes import apply_event
from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.keys import JobWalk
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import decode_eventlog, encode_event
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import DEPEND, INACTIVE, NEW, RUNNING, SCHED
from pytest_flux.protocol.jobspec import system_attributes

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.manager import JobManager

_ERR, _INFO = 3, 6
_CHECKPOINT = "checkpoint.job-manager"


def replay_job(job_id: int, eventlog: bytes, jobspec: bytes, resources: bytes | None) -> Job:
    """A job as its KVS data tell. ProtocolError for data that make no sense."""
    try:
        specification: dict[str, Any] = json.loads(jobspec)
        system_attributes(specification).pop("environment", None)
        job = Job(job_id, specification)
        if resources is not None:
            allocated: dict[str, Any] = json.loads(resources)
            allocated.pop("scheduling", None)
            job.set_resources(allocated)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("failed to decode job", repr(error)[:200]) from None
    try:
        events = decode_eventlog(eventlog.decode("utf-8", "surrogatepass"))
        if not events or events[0]["name"] != "submit":
            raise ProtocolError("first event is not submit")
        for event in events:
            apply_event(job, event)
            job.record(encode_event(event))
    except (UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError("failed to decode eventlog", repr(error)) from None
    if job.state == NEW:
        raise ProtocolError("job state (NEW) is invalid after replay")
    return job


class Restart:
    """Walks ``job.*`` of the KVS, then the checkpoint, then has the jobs that were active go on."""

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager

    def run(self) -> None:
        """Read everything."""
        manager = self._manager
        jobs = list(self._jobs())
        for job in sorted(jobs, key=lambda job: (job.t_inactive, job.id)):
            manager.max_jobid = max(manager.max_jobid, job.id)
            if job.state == INACTIVE:
                job.is_readonly = True
                manager.inactive[job.id] = job
                job.freeze()
                for callback in manager.on_retire:
                    callback(job)
        manager.history = [job.id for job in sorted(jobs, key=lambda job: job.t_submit)]
        self._restore()
        active = sorted((job for job in jobs if job.state != INACTIVE), key=lambda job: job.id)
        for job in active:
            manager.active[job.id] = job
            manager.waits.activated(job)
            manager.running += bool(job.state & RUNNING)
        if jobs:
            text = f"restart: {len(jobs)} jobs, {manager.running} running"
            manager.log.write(_INFO, text, "job-manager")
        for job in active:
            manager.dependencies.admitted(job)
            if not manager.is_recovery:
                self._resume(job)

    def _jobs(self) -> Iterator[Job]:
        store, log = self._manager.store, self._manager.log
        walk = JobWalk(store.list, *store.extent())
        try:
            for key in walk.keys():  # noqa: SIM118 - not a dictionary
                eventlog, jobspec = store.lookup(f"{key}.eventlog"), store.lookup(f"{key}.jobspec")
                resources = store.lookup(f"{key}.R")
                walk.spend(eventlog, jobspec, resources)
                try:
                    if eventlog is None or jobspec is None:
                        raise ProtocolError("no eventlog or no jobspec")
                    yield replay_job(parse_fluid(key), eventlog, jobspec, resources)
                except ProtocolError as error:
                    log.write(_ERR, f"job {key} not replayed: {error}", "job-manager")
        except ProtocolError as error:
            log.write(_ERR, f"restart: {error}", "job-manager")

    def _resume(self, job: Job) -> None:
        manager = self._manager
        if job.state == DEPEND:
            try:
                manager.dependencies.check(job)
            except FluxError as error:
                note = f"{error.text} (job may be stuck in DEPEND state)"
                manager.raise_exception(job, "dependency", 4, note)
        if job.state == SCHED:
            job.priority = -1
            manager.events.post(job, "flux-restart")
        elif job.state & RUNNING and job.was_started and job.has_resources and job.wait_status < 0:
            # Its shells ended with the broker that ran them: it must not be run twice.
            manager.raise_exception(job, "exec", 0, "instance restarted while the job was running")
        if job.id in manager.active:
            manager.events.act(job)

    def _restore(self) -> None:
        manager = self._manager
        checkpoint = manager.store.lookup(_CHECKPOINT)
        if checkpoint is None:
            return
        try:
            state: dict[str, Any] = json.loads(checkpoint)
            manager.max_jobid = max(manager.max_jobid, int(state["max_jobid"]))
            manager.queues.restore(state.get("queue") or [])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            manager.log.write(_ERR, f"restart: {_CHECKPOINT}: {error!r}", "job-manager")
