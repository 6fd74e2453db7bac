"""Posting events: the one way in which jobs change (flux-core's event.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.changes import apply_event
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import Event, encode_event, make_event
from pytest_flux.protocol.job_state import CLEANUP, DEPEND, INACTIVE, PRIORITY, RUN, RUNNING, SCHED

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.batch import Batch
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.manager import JobManager

Listener = Callable[["Job", Event, bool], None]
"""Called with each event after it was applied, and whether it will be in the KVS."""


class Events:
    """Applies events in order, tells listeners, and does what the state that follows asks for."""

    def __init__(self, manager: JobManager, batch: Batch) -> None:
        self._manager = manager
        self._batch = batch
        self._listeners: list[Listener] = []
        self._state_listeners: list[Callable[[Job, int], None]] = []
        self._actions: dict[int, Callable[[Job], None]] = {
            DEPEND: self._on_depend,
            PRIORITY: self._on_priority,
            SCHED: self._on_sched,
            RUN: self._on_run,
            CLEANUP: self._on_cleanup,
            INACTIVE: self._on_inactive,
        }

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for each event of every job from now on."""
        self._listeners.append(listener)

    def listen_states(self, listener: Callable[[Job, int], None]) -> None:
        """Call ``listener`` with a job and its former state whenever that changes."""
        self._state_listeners.append(listener)

    def post(
        self,
        job: Job,
        name: str,
        context: dict[str, Any] | None = None,
        *,
        commit: bool = True,
        timestamp: float | None = None,
    ) -> None:
        """Post an event. One posted while another of the same job is in work waits for that to end.

        Raises FluxError EROFS for a job whose log is closed.
        """
        if job.is_readonly:
            raise FluxError(errno.EROFS)
        event = make_event(name, context, timestamp=self._manager.clock.time() if timestamp is None else timestamp)
        job.queued_events.append((event, commit))
        if len(job.queued_events) == 1 and not job.is_held:
            self.drain(job)

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
        """Apply the events of a job that was held while it was checked, and no others until those are in the KVS."""
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
            self._manager.running += bool(job.state & RUNNING) - bool(before & RUNNING)
            for state_listener in self._state_listeners:
                state_listener(job, before)
            if job.state == PRIORITY:
                self._manager.prioritize(job)
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
        self._manager.alloc.dequeue(job)

    def _on_sched(self, job: Job) -> None:
        self._manager.alloc.enqueue(job)

    def _on_run(self, job: Job) -> None:
        if not job.perilogs and not self._is_queued(job, "prolog-start"):
            self._manager.start.start(job)

    def _on_cleanup(self, job: Job) -> None:
        self._manager.alloc.dequeue(job)
        if job.start_pending or job.perilogs or self._is_queued(job, "epilog-start"):
            return
        if job.has_resources and not job.free_posted:
            job.free_posted = True
            self._manager.alloc.free(job)
            self.post(job, "free")
        elif not job.has_resources and not self._is_queued(job, "clean"):
            self.post(job, "clean")

    def _on_inactive(self, job: Job) -> None:
        job.is_readonly = True
        self._manager.retire(job)
