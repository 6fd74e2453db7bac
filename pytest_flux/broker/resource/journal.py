"""The event log of resources (RFC 44): drains go into the KVS for a restart, all events to clients that listen."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import Event, decode_eventlog, encode_event, make_event

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.service import Request
    from pytest_flux.reactor.clock import Clock

EVENTLOG = "resource.eventlog"
_BATCH = 100


class Journal:
    """See the module."""

    def __init__(self, kvs: Kvs, clock: Clock) -> None:
        self._kvs = kvs
        self._clock = clock
        self._limit = 100000
        self._events: deque[tuple[Event, dict[str, Any] | None]] = deque()
        self._followers: list[Request] = []

    def recall(self) -> list[Event]:
        """Read the events of an earlier run of the instance. Raises ProtocolError if they are malformed."""
        try:
            text = self._kvs.lookup(EVENTLOG).decode("utf-8", "surrogateescape")
        except FluxError:
            return []
        events = decode_eventlog(text)
        # Which resources there were is of no use to anybody.
        self._events.extend((event, None) for event in events if event["name"] != "resource-define")
        self._bound()
        return events

    def set_limit(self, limit: int) -> None:
        """Keep no more than ``limit`` events for clients (``resource.journal-max``)."""
        self._limit = max(limit, 1)
        self._bound()

    def _bound(self) -> None:
        """Drop the oldest events if there are too many. An event "truncate", at their time, stands for them."""
        if len(self._events) <= self._limit:
            return
        timestamp = 0.0
        while len(self._events) >= self._limit:
            timestamp = self._events.popleft()[0]["timestamp"]
        self._events.appendleft((make_event("truncate", {}, timestamp=timestamp), None))

    def truncate(self, events: list[Event], since: float) -> None:
        """Drop what is older than ``since`` from the KVS, which has these events."""
        kept = [event for event in events if event["timestamp"] >= since]
        if len(kept) < len(events):
            self._kvs.put(EVENTLOG, "".join(map(encode_event, kept)))

    def post(
        self,
        name: str,
        context: dict[str, Any],
        *,
        commit: bool = True,
        timestamp: float | None = None,
        resources: dict[str, Any] | None = None,
    ) -> None:
        """Add an event; ``resource-define`` comes with its ``resources``, an R as JSON, which is small."""
        event = make_event(name, context, timestamp=self._clock.time() if timestamp is None else timestamp)
        self._events.append((event, resources))
        self._bound()
        if commit:
            self._kvs.append(EVENTLOG, encode_event(event))
        for follower in self._followers:
            self._send(follower, [event], resources)

    def follow(self, request: Request) -> None:
        """Answer with all past events, an empty list, and then each new event."""
        batch: list[Event] = []
        for event, resources in self._events:
            if resources is None:
                batch.append(event)
                if len(batch) < _BATCH:
                    continue
            if batch:
                self._send(request, batch, None)
                batch = []
            if resources is not None:
                self._send(request, [event], resources)
        if batch:
            self._send(request, batch, None)
        self._send(request, [], None)
        self._followers.append(request)

    def forget(self, request: Request) -> None:
        """Drop a client that no longer follows."""
        if request in self._followers:
            self._followers.remove(request)

    @staticmethod
    def _send(request: Request, events: list[Event], resources: dict[str, Any] | None) -> None:
        answer: dict[str, Any] = {"events": events}
        if resources is not None:
            answer["R"] = resources
        request.respond(answer)
