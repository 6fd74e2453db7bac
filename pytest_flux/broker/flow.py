"""Streams that do not outrun who reads them.

What has been sent to a client and not been taken waits in some broker's memory, so there is a bound to it. The broker
that a client is connected to counts what it takes of each stream, and tells the service at the other end with
``<service>.credit``, wherever that is; the service stops at its window until then. libsubprocess does the same
for standard input (RFC 42, "add-credit"); for output, flux-core lets its brokers grow.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pytest_flux.broker.service import Request
from pytest_flux.protocol.message import FLAG_NORESPONSE, FLAG_UPSTREAM, REQUEST, ROLE_OWNER, Message, encode_json
from pytest_flux.reactor.usock import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.router import Router

WINDOW = 1 << 18
"""How many bytes of one stream may be on their way. Hundreds of such streams fit into what one link holds."""

WIDE = 1 << 21
"""The same for what only rank 0 sends, to few: enough for clients not to wait where processors are busy."""

STREAMS = frozenset(("rexec.exec", "rexec.attach", "job-info.eventlog-watch", "kvs-watch.lookup"))
"""The requests whose answers are counted: how much they are, is up to others than us."""

HIGH, LOW = 8 << 20, 1 << 20
"""So much unread, in bytes, makes a broker take nothing more from those it would come from, until so little is."""

_QUANTUM = WINDOW // 4
# A client with so much to read gets more only when it has taken some.
_BACKLOG = 2 * WINDOW
# What a message has besides its payload.
_MESSAGE = 128


def weight(payload: bytes | None) -> int:
    """What a message takes, more or less."""
    return len(payload or b"") + _MESSAGE


class Flow:
    """At the service: one stream. ``on_room`` is called when it may go on."""

    __slots__ = ("_on_room", "_request", "_unread", "_window")

    def __init__(self, request: Request, on_room: Callable[[], None], window: int = WINDOW) -> None:
        self._request = request
        self._window = window
        self._unread = 0
        self._on_room = on_room

    @property
    def is_open(self) -> bool:
        """Whether to send more."""
        return self._unread < self._window

    def send(self, payload: bytes) -> None:
        """Answer, whatever the state."""
        self._unread += weight(payload)
        self._request.respond(payload)

    def credit(self, request: Request) -> None:
        """Take a ``credit`` request, if it is about this stream. ProtocolError."""
        mine = self._request
        if mine.sender == request.sender and mine.message.matchtag == request.field("matchtag", int):
            was_open = self.is_open
            self._unread -= request.field("size", int)
            if self.is_open and not was_open:
                self._on_room()


class _Stream:
    """At the client's broker: the request, and how much of what was answered has not been credited."""

    __slots__ = ("request", "taken")

    def __init__(self, request: Message) -> None:
        self.request = request
        self.taken = 0


class Ledger:
    """At the client's broker: what one client has taken."""

    __slots__ = ("_connection", "_is_behind", "_router", "_streams")

    def __init__(self, router: Router, connection: Connection) -> None:
        self._router = router
        self._connection = connection
        self._streams: dict[tuple[tuple[str, ...], int], _Stream] = {}
        self._is_behind = False

    def open(self, request: Message) -> None:
        """The client has asked for something."""
        if request.is_streaming and request.topic in STREAMS:
            header = request.copy()
            header.payload = None
            self._streams[tuple(header.routes or ()), header.matchtag] = _Stream(header)

    def deliver(self, message: Message) -> None:
        """Send the client what it is to get."""
        self._connection.send(message)
        if not self._streams or message.topic not in STREAMS:
            return
        # An answer has lost its last hop, which is the client itself.
        key = (*(message.routes or ()), self._connection.uuid), message.matchtag
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
