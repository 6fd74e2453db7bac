"""Flow control: streams that do not outrun their readers.

The problem: a service produces a stream (the output of a job, an event log, a watched key) as fast as it can, the
client reads as fast as it likes, and between them lie several brokers. Whatever is sent and not yet read waits in the
memory of one of them. In flux-core it waits without bound.

The ways that were open:

* Let TCP-like back-pressure do it: each hop stops reading when the next one is full. But many streams share a link.
  One slow client would stop all others, and a stopped child would stop its parent.
* Cut off slow readers. Real clients are slow for good reasons: a pager, a suspended terminal.
* Credits from end to end, one account a stream. libsubprocess does this for standard input (RFC 42, "add-credit").

We do the last, with the least that it needs. A :class:`Flow` at the service counts the bytes it has sent, and is
closed when a window of them is unread; the producer then stops (it pauses a pipe, or remembers a place in the KVS).
The :class:`Ledger` at the client's broker counts the bytes that the client's socket has accepted and reports them
with ``<service>.credit`` requests, which need no answer. Clients need not know: credits come from their broker.

What must stay true: every byte that ``Flow.send`` counts is either credited or its request ends; both ends use
``weight``; credits take the same way as the request, so they arrive at the same service; a window is small enough for
hundreds of streams to share a link. Requests without a stream are not counted: one request has one answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pytest_flux.broker.service import Request
from pytest_flux.protocol.limits import OPEN_REQUESTS_OF_CLIENT
from pytest_flux.protocol.message import FLAG_NORESPONSE, FLAG_UPSTREAM, REQUEST, ROLE_OWNER, Message, encode_json
from pytest_flux.reactor.usock import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.router import Router

WINDOW = 1 << 18
"""Bytes of one stream that may be on their way. A link can hold hundreds of such streams."""

WIDE = 1 << 21
"""The same for streams of which only rank 0 has a few: enough that clients do not wait on a busy machine."""

STREAMS = frozenset(("rexec.exec", "rexec.attach", "job-info.eventlog-watch", "kvs-watch.lookup"))
"""The requests whose answers are counted: streams of unbounded volume."""

HIGH, LOW = 8 << 20, 1 << 20
"""Bytes unsent to the parent: pause reading from clients and children above HIGH, resume below LOW."""

_QUANTUM = WINDOW // 4
# A client with more unread bytes than this gets no credit until it has read some.
_BACKLOG = 2 * WINDOW
# Bytes of a message besides its payload.
_MESSAGE = 128


def weight(payload: bytes | None) -> int:
    """The approximate bytes of a message."""
    return len(payload or b"") + _MESSAGE


class Flow:
    """The end of one stream at the service. ``on_room`` is called when it may go on."""

    __slots__ = ("_on_room", "_request", "_unread", "_window")

    def __init__(self, request: Request, on_room: Callable[[], None], window: int = WINDOW) -> None:
        self._request = request
        self._window = window
        self._unread = 0
        self._on_room = on_room

    @property
    def is_open(self) -> bool:
        """Whether to send more now."""
        return self._unread < self._window

    def send(self, payload: bytes) -> None:
        """Answer, even if the flow is closed."""
        self._unread += weight(payload)
        self._request.respond(payload)

    def credit(self, request: Request) -> None:
        """Apply a ``credit`` request, if it is about this stream. ProtocolError."""
        mine = self._request
        if mine.sender == request.sender and mine.message.matchtag == request.field("matchtag", int):
            was_open = self.is_open
            self._unread -= request.field("size", int)
            if self.is_open and not was_open:
                self._on_room()


_Key = tuple[tuple[str, ...], int]


class _Stream:
    """The request of a stream, and the bytes of its answers that have not been credited."""

    __slots__ = ("request", "taken")

    def __init__(self, request: Message) -> None:
        self.request = request
        self.taken = 0


class Ledger:
    """The other end, at the client's broker: the open requests of one client, and its streams."""

    __slots__ = ("_connection", "_is_behind", "_open", "_router", "_streams")

    def __init__(self, router: Router, connection: Connection) -> None:
        self._router = router
        self._connection = connection
        self._open: set[_Key] = set()
        self._streams: dict[_Key, _Stream] = {}
        self._is_behind = False

    def open(self, request: Message) -> bool:
        """Note a request that will be answered. Returns False if the client has too many of them."""
        key = tuple(request.routes or ()), request.matchtag
        if len(self._open) >= OPEN_REQUESTS_OF_CLIENT and key not in self._open:
            return False
        self._open.add(key)
        if request.is_streaming and request.topic in STREAMS:
            header = request.copy()
            header.payload = None
            self._streams[key] = _Stream(header)
        return True

    def forget(self, request: Message) -> None:
        """A client behind this one, which is a relay, has disconnected from a service: it gets no more answers."""
        routes = tuple(request.routes or ())
        if len(routes) > 1:
            self._open = {key for key in self._open if key[0] != routes}

    def deliver(self, message: Message) -> None:
        """Send the client a message."""
        self._connection.send(message)
        # The route stack of an answer no longer has its last hop, the client itself.
        key = (*(message.routes or ()), self._connection.uuid), message.matchtag
        if message.errnum or not message.is_streaming:
            self._open.discard(key)
        if not self._streams or message.topic not in STREAMS:
            return
        stream = self._streams.get(key)
        if stream is None:
            return
        if message.errnum:
            del self._streams[key]
            return
        stream.taken += weight(message.payload)
        if stream.taken < _QUANTUM or self._is_behind:
            return
        if self._connection.unsent <= _BACKLOG:
            self._credit(stream)
        else:
            self._is_behind = True
            self._connection.when_below(_BACKLOG, self._caught_up)

    def _caught_up(self) -> None:
        self._is_behind = False
        for stream in list(self._streams.values()):
            if stream.taken >= _QUANTUM:
                self._credit(stream)

    def _credit(self, stream: _Stream) -> None:
        request, size, stream.taken = stream.request, stream.taken, 0
        self._router.request(
            Message(
                REQUEST,
                f"{(request.topic or '').partition('.')[0]}.credit",
                encode_json({"matchtag": request.matchtag, "size": size}),
                flags=FLAG_NORESPONSE | request.flags & FLAG_UPSTREAM,
                userid=os.getuid(),
                rolemask=ROLE_OWNER,
                aux1=request.nodeid,
                routes=list(request.routes or ()),
            )
        )
