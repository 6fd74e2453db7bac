"""`job-info`: a job's data in the KVS, for the job's user and the instance owner."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.follow import (
    INITIAL_SENTINEL,
    UPDATES,
    WAIT_FOR_CREATION,
    Follower,
    GuestFollower,
    UpdateFollower,
    apply_update,
)
from pytest_flux.broker.jobs.job import Job, authorize
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import decode_eventlog
from pytest_flux.protocol.fluid import kvs_key

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.protocol.message import Message

_JSON_DECODE, _CURRENT = 1, 2


class JobInfoService(Service):
    """Looks values up, and follows event logs and updates."""

    name = "job-info"

    def __init__(self, router: Router, log: BrokerLog, manager: JobManager, kvs: Kvs) -> None:
        super().__init__(router, log)
        self._table = manager.table
        self._batch = manager.batch
        self._kvs = kvs
        self._followers: dict[int, list[Follower]] = {}
        self._update_followers: dict[Request, UpdateFollower] = {}
        manager.events.listen(self._event)

    def receive(self, message: Message) -> None:
        """Handle one request, after all changes of jobs are in the KVS."""
        if self._batch.is_clean:
            super().receive(message)
        else:
            receive = super().receive
            self._batch.afterwards(lambda _: receive(message))

    def _job(self, request: Request, text: str | None = None) -> Job:
        job = self._table.find(request.field("id", int))
        if job is None:
            # Somebody may have written it who is not the job manager.
            self._events_of(request.field("id", int))
            raise FluxError(errno.ENOENT, text)
        authorize(request, job, "access is restricted to job/instance owner")
        return job

    def _events_of(self, job_id: int) -> list[Event]:
        """Read the log of a job, which is empty if there is none. FluxError EINVAL if it cannot be read."""
        try:
            text = self._kvs.lookup(kvs_key(job_id, "eventlog")).decode("utf-8", "surrogateescape")
        except FluxError:
            return []
        try:
            events = decode_eventlog(text)
            int(events[0]["context"]["userid"])
        except (ProtocolError, LookupError, TypeError, ValueError):
            raise FluxError(errno.EINVAL, "error parsing eventlog") from None
        return events

    # -- looking up

    @method("lookup", roles=ALL)
    def lookup(self, request: Request) -> Answer:
        """``{id, keys: [str], flags}`` → ``{id, <key>: value}``."""
        keys, flags = request.field("keys", list), request.field("flags", int)
        if flags & ~(_JSON_DECODE | _CURRENT):
            raise FluxError(errno.EPROTO, "lookup request rejected with invalid flag")
        if not all(isinstance(key, str) for key in keys):
            raise FluxError(errno.EPROTO)
        job = self._job(request, "invalid job id")
        answer: dict[str, Any] = {"id": job.id}
        for key in keys:
            answer[key] = self._value(job, key, flags)
        return answer

    def _value(self, job: Job, key: str, flags: int) -> Any:  # noqa: ANN401
        try:
            text = self._kvs.lookup(kvs_key(job.id, key)).decode("utf-8", "surrogateescape")
        except FluxError as error:
            reason = "key not found" if error.errnum == errno.ENOENT else error.strerror
            raise FluxError(error.errnum, f"{key}: {reason}") from None
        if not text:
            raise FluxError(errno.EPROTO, f"{key}: value is unexpectedly empty")
        if key not in UPDATES or not flags:
            return text
        try:
            value: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise FluxError(errno.EINVAL, f"{key}: {error}") from None
        if flags & _CURRENT:
            for event in self._events_of(job.id):
                apply_update(key, value, event)
        return value if flags & _JSON_DECODE else json.dumps(value, ensure_ascii=False)

    @method("update-lookup", roles=ALL)
    def update_lookup(self, request: Request) -> Answer:
        """``{id, key: "R", flags: 0}`` → ``{id, R}`` with updates applied."""
        key = request.field("key", str)
        if request.field("flags", int):
            raise FluxError(errno.EPROTO, "update-lookup request rejected with invalid flag")
        if key != "R":
            raise FluxError(errno.EINVAL, "update-lookup unsupported key specified")
        job = self._job(request, "invalid job id")
        return {"id": job.id, key: self._value(job, key, _JSON_DECODE | _CURRENT)}

    # -- following

    @method("eventlog-watch", roles=ALL)
    def eventlog_watch(self, request: Request) -> _Later:
        """``{id, path, flags}``, streaming → ``{event: line}`` for each event."""
        path, flags = request.field("path", str), request.field("flags", int)
        if flags & ~(WAIT_FOR_CREATION | INITIAL_SENTINEL):
            raise FluxError(errno.EPROTO, "eventlog-watch request rejected with invalid flag")
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO, "eventlog-watch request rejected without streaming RPC flag")
        job = self._job(request)
        kind = GuestFollower if path.startswith("guest.") else Follower
        follower = kind(self._kvs, request, job, path, self._over)
        self._followers.setdefault(job.id, []).append(follower)
        self.hold(request)
        follower.begin()
        return LATER

    def _over(self, follower: Follower) -> None:
        self.release(follower.request)
        followers = self._followers.get(follower.job.id, [])
        if follower in followers:
            followers.remove(follower)
        if not followers:
            self._followers.pop(follower.job.id, None)

    @method("eventlog-watch-cancel", roles=ALL)
    def eventlog_watch_cancel(self, request: Request) -> Answer:
        """``{matchtag}``: the stream of that number ends."""
        return super().cancel(request)

    @method("credit")
    def credit(self, request: Request) -> Answer:
        """``{matchtag, size}``: the client of that request has taken so much; never answered."""
        for followers in list(self._followers.values()):
            for follower in list(followers):
                follower.flow.credit(request)
        return None

    @method("update-watch", roles=ALL)
    def update_watch(self, request: Request) -> _Later:
        """``{id, key: R|jobspec, flags: 0}``, streaming → ``{<key>: object}``, again after each update."""
        key = request.field("key", str)
        if request.field("flags", int):
            raise FluxError(errno.EPROTO, "update-watch request rejected with invalid flag")
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO, "update-watch request rejected without streaming RPC flag")
        if key not in UPDATES:
            raise FluxError(errno.EINVAL, "update-watch unsupported key specified")
        job = self._job(request)
        follower = UpdateFollower(self._kvs, request, job, self._value(job, key, _JSON_DECODE), self._update_over)
        self._update_followers[request] = follower
        self.hold(request)
        follower.begin()
        return LATER

    def _update_over(self, request: Request) -> None:
        self._update_followers.pop(request, None)
        self.release(request)

    @method("update-watch-cancel", roles=ALL)
    def update_watch_cancel(self, request: Request) -> Answer:
        """``{matchtag}``: the stream of that number ends."""
        return super().cancel(request)

    def abandoned(self, request: Request) -> None:
        """A client no longer follows."""
        updates = self._update_followers.pop(request, None)
        if updates is not None:
            updates.stop()
        for followers in list(self._followers.values()):
            for follower in [each for each in followers if each.request is request]:
                follower.stop()
                self._over(follower)

    def _event(self, job: Job, event: Event, _: bool) -> None:
        name = event["name"]
        for follower in list(self._followers.get(job.id, ())):
            follower.changed(name)

    @method("stats-get")
    def stats_get(self, request: Request) -> Answer:
        """→ how many look up and follow."""
        followers = [follower for each in self._followers.values() for follower in each]
        guests = sum(isinstance(follower, GuestFollower) for follower in followers)
        return {
            "lookups": 0,
            "watchers": len(followers),
            "guest_watchers": guests,
            "update_lookups": 0,
            "update_watchers": len(self._update_followers),
        }
