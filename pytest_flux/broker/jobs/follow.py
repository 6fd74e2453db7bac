"""Follows event logs in the KVS, for ``job-info.eventlog-watch`` (flux-core's job-info/watch.c, guest_watch.c)."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.flow import WIDE, Flow
from pytest_flux.broker.kvs.lookup import STREAM, WAITCREATE, WATCH, WATCH_APPEND, WATCH_INITIAL_SENTINEL
from pytest_flux.broker.kvs.namespace import PRIMARY
from pytest_flux.broker.kvs.watch import Watch
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import decode_event
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.job_state import INACTIVE
from pytest_flux.protocol.jobspec import set_path
from pytest_flux.protocol.message import encode_json

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.service import Request
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.protocol.treeobj import TreeObject

WAIT_FOR_CREATION, INITIAL_SENTINEL = 1, 2
"""The flags of ``eventlog-watch``."""


class Follower:
    """One request, and the log of one job that it follows. ``over`` is called after the last event.

    A client that reads slowly does not make a queue grow here: the log, which may be as long as a job's output, stays
    in the KVS until the client has taken what was sent.
    """

    def __init__(self, kvs: Kvs, request: Request, job: Job, path: str, over: Callable[[Follower], None]) -> None:
        self.request = request
        self.flow = Flow(request, self._resume, WIDE)
        self.job = job
        self.path = path
        self._kvs = kvs
        self._flags = request.field("flags", int)
        self._over = over
        self._watch: Watch | None = None
        self._namespace = PRIMARY
        self._lines: deque[bytes] = deque()
        self._parts = 0
        self._end: int | None = None
        self._marked = False

    def begin(self) -> None:
        """Send past events, then each new event."""
        self._follow(PRIMARY, kvs_key(self.job.id, self.path))

    def _follow(self, namespace: str, key: str) -> None:
        flags = WATCH | WATCH_APPEND
        if self._flags & WAIT_FOR_CREATION:
            flags |= WAITCREATE
        if self._flags & INITIAL_SENTINEL:
            flags |= WATCH_INITIAL_SENTINEL
        self._look(namespace, key, flags)

    def _look(self, namespace: str, key: str, flags: int) -> None:
        self._namespace = namespace
        self._watch = Watch(
            key, flags, self._kvs.credentials, self._tell, self._ended, is_open=self._is_open, first=self._parts
        )
        self._kvs.add_watch(namespace, self._watch)

    def _is_open(self) -> bool:
        return self.flow.is_open and not self._lines

    def _resume(self) -> None:
        self._send()
        if self._watch is not None and self._is_open():
            self._kvs.resume_watch(self._namespace, self._watch)

    def stop(self) -> None:
        """Stop following, without an answer."""
        self._lines.clear()
        self._leave()

    def _leave(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            # All parts up to this one were sent or dropped.
            self._parts = watch.count
            if not watch.finished:
                self._kvs.unwatch(self._namespace, watch)

    def changed(self, event: str) -> None:
        """The job has had an event. Subclasses override this."""

    def _tell(self, value: TreeObject | None) -> None:
        if value is None:
            self._mark()
        else:
            # Not splitlines(): an event may contain other characters that Python takes for line ends.
            *lines, rest = value.value().split(b"\n")
            self._lines.extend(line + b"\n" for line in lines)
            if rest:
                self._lines.append(rest)
            self._send()

    def _mark(self) -> None:
        if self._flags & INITIAL_SENTINEL and not self._marked:
            self._marked = True
            self.request.respond()

    def _send(self) -> None:
        """Send as many lines as the client takes now."""
        while self._lines and self.flow.is_open:
            line = self._lines.popleft().decode("utf-8", "surrogatepass")
            self.flow.send(encode_json({"event": line}))
            if '"clean"' in line and self._is_end(line):
                self._mark()
                self._finish()
                return
        if self._end is not None and not self._lines:
            self._fail(self._end)

    def _is_end(self, line: str) -> bool:
        if self.path != "eventlog":
            return False
        try:
            return bool(decode_event(line)["name"] == "clean")
        except ProtocolError:
            return False

    def _ended(self, error: FluxError | None) -> None:
        self._leave()
        self._end = errno.ENODATA if error is None else error.errnum
        self._send()

    def _finish(self) -> None:
        self._fail(errno.ENODATA)

    def _fail(self, errnum: int) -> None:
        self.stop()
        self._over(self)
        self.request.error(errnum)


class GuestFollower(Follower):
    """Follows a log below ``guest.``.

    While the job runs, the log may be in the job's own namespace (RFC 16, "Guest KVS Namespace") or already in its
    final place; after the final release event it is complete, and in its final place.
    """

    _is_complete = False

    def begin(self) -> None:
        """See Follower. Begins when the job has started, because there is no namespace before."""
        if self.job.was_released:
            self._complete()
        elif self.job.state == INACTIVE:
            self._finish()
        elif self.job.was_started:
            self._begin()

    def _begin(self) -> None:
        namespace = f"job-{self.job.id}"
        if any(each.name == namespace for each in self._kvs.namespaces()):
            self._follow(namespace, self.path.removeprefix("guest."))
        else:
            self._follow(PRIMARY, kvs_key(self.job.id, self.path))

    def changed(self, event: str) -> None:
        """See Follower."""
        if event == "start" and self._watch is None:
            self._begin()
        elif event == "release" and self.job.was_released:
            self._complete()
        elif event == "clean" and not self._is_complete:
            self._finish()

    def _ended(self, error: FluxError | None) -> None:
        if error is not None and error.errnum == errno.ENOTSUP and not self.job.was_released:
            # The namespace was removed: its contents are now in the job's directory.
            self._leave()
            return
        super()._ended(error)

    def _complete(self) -> None:
        """Send the rest of a complete log: its parts are the same in both places."""
        self._is_complete = True
        self._leave()
        self._look(PRIMARY, kvs_key(self.job.id, self.path), STREAM)

    def _fail(self, errnum: int) -> None:
        if self._is_complete and errnum == errno.ENODATA:
            self._mark()
        super()._fail(errnum)


UPDATES = {"R": "resource-update", "jobspec": "jobspec-update"}
"""Which event of a job's log updates which of its keys."""


def apply_update(key: str, value: dict[str, Any], event: Event) -> bool:
    """Update R or a jobspec by an event, if it is one for that key. Whether it was."""
    if event["name"] != UPDATES[key]:
        return False
    for path, update in event.get("context", {}).items():
        if key == "jobspec":
            set_path(value, path, update)
        elif path == "expiration":
            set_path(value, "execution.expiration", update)
    return True


class UpdateFollower:
    """One request for R or a jobspec, again after each update in the log, until the job is inactive.

    The log in the KVS is followed, not the job manager's events: as in flux-core, others may write there.
    """

    def __init__(
        self, kvs: Kvs, request: Request, job: Job, value: dict[str, Any], over: Callable[[Request], None]
    ) -> None:
        self._kvs = kvs
        self._request = request
        self._key = request.field("key", str)
        self._value = value
        self._over = over
        self._is_current = self._is_clean = False
        flags = WATCH | WATCH_APPEND | WATCH_INITIAL_SENTINEL
        key = kvs_key(job.id, "eventlog")
        self._watch = Watch(key, flags, kvs.credentials, self._tell, self._end)

    def begin(self) -> None:
        """Send the present value, then each new one."""
        self._kvs.add_watch(PRIMARY, self._watch)

    def stop(self) -> None:
        """Stop following, without an answer."""
        if not self._watch.finished:
            self._kvs.unwatch(PRIMARY, self._watch)

    def _tell(self, value: TreeObject | None) -> None:
        if value is None:
            self._is_current = True
            self._request.respond({self._key: self._value})
        else:
            for line in value.value().decode("utf-8", "surrogateescape").split("\n"):
                self._take(line)
        if self._is_clean and self._is_current:
            self._end(None)

    def _take(self, line: str) -> None:
        try:
            event = decode_event(line)
        except ProtocolError:
            return
        if apply_update(self._key, self._value, event) and self._is_current:
            self._request.respond({self._key: self._value})
        self._is_clean |= event["name"] == "clean"

    def _end(self, error: FluxError | None) -> None:
        self.stop()
        self._over(self._request)
        if error is None:
            self._request.finish()
        else:
            self._request.error(error.errnum, error.text)
