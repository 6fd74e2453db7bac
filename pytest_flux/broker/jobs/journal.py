"""The journal: every event of every job, sent to clients that listen (flux-core's journal.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.events import Events
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.jobs.table import JobTable
    from pytest_flux.broker.service import Request
    from pytest_flux.protocol.eventlog import Event


class _Listener:
    """One streaming request, and which events it wants."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.allow = self._names("allow")
        self.deny = self._names("deny")

    def _names(self, key: str) -> dict[str, Any] | None:
        names = self.request.json().get(key) if self.request.message.payload else None
        if names is not None and not isinstance(names, dict):
            raise FluxError(errno.EPROTO, f"job-manager.events {key} should be an object")
        return names

    def wants(self, name: str) -> bool:
        if self.allow is not None and name not in self.allow:
            return False
        return self.deny is None or name not in self.deny


class Journal:
    """Listeners get past events, then a sentinel, then each new event."""

    def __init__(self, table: JobTable, events: Events) -> None:
        self._table = table
        self._listeners: list[_Listener] = []
        self.count = 0
        events.listen(self._event)

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, request: Request) -> None:
        """Add a listener. Raises FluxError EPROTO if the request does not stream."""
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO, "job-manager.events requires streaming RPC flag")
        listener = _Listener(request)
        full = request.field("full", bool, False)
        for job in [*(self._table.inactive.values() if full else ()), *self._table.active.values()]:
            self._send_past(listener, job)
        request.respond({"id": -1, "events": []})
        self._listeners.append(listener)

    @staticmethod
    def _send_past(listener: _Listener, job: Job) -> None:
        answer: dict[str, Any] = {
            "id": job.id,
            "events": [event for event in job.eventlog if listener.wants(event["name"])],
            "jobspec": job.jobspec,
        }
        if (resources := job.R) is not None:
            answer["R"] = resources
        listener.request.respond(answer)

    def remove(self, request: Request) -> None:
        """Remove a listener that is gone or has cancelled."""
        self._listeners = [listener for listener in self._listeners if listener.request is not request]

    def _event(self, job: Job, event: Event, _: bool) -> None:
        self.count += 1
        if not self._listeners:
            return
        answer: dict[str, Any] = {"id": job.id, "events": [event]}
        if event["name"] == "submit":
            answer["jobspec"] = job.jobspec
        elif event["name"] == "alloc":
            answer["R"] = job.R
        for listener in list(self._listeners):
            if listener.wants(event["name"]):
                listener.request.respond(answer)
