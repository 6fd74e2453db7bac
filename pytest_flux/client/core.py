"""The client's half of the local connector's protocol (RFC 3, RFC 6), without a socket.

Received bytes go into :meth:`ClientCore.feed`, bytes to send come out of :attr:`ClientCore.output`. Waiting is the
business of the handle in front of it: :mod:`pytest_flux.client.handle` blocks, :mod:`pytest_flux.client.aio` awaits.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from heapq import heappop, heappush

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    EVENT,
    FLAG_NORESPONSE,
    FLAG_PRIVATE,
    FLAG_STREAMING,
    FLAG_UPSTREAM,
    MATCHTAG_NONE,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_NONE,
    USERID_UNKNOWN,
    Message,
)

NODEID_UPSTREAM = 0xFFFFFFFE
"""The parent of the broker that the client is connected to. On the wire it is a flag."""


class Call:
    """One request, and its responses that nobody has taken yet.

    The last response sets ``finished``: the only one, or the error that ends a stream (RFC 6, "Streaming Responses":
    ENODATA at its regular end).
    """

    __slots__ = ("abandoned", "finished", "matchtag", "nodeid", "responses", "streaming", "topic")

    def __init__(self, topic: str, nodeid: int = NODEID_ANY, *, streaming: bool = False) -> None:
        self.topic = topic
        self.nodeid = nodeid
        self.streaming = streaming
        self.matchtag = MATCHTAG_NONE
        self.responses: deque[Message] = deque()
        self.finished = False
        self.abandoned = False


class ClientCore:
    """State of one connection.

    ``ready`` is whether the broker has accepted us; nothing may be sent before. ``output`` has the bytes to send; the
    handle removes those that it has sent. Events and requests for our services queue up in ``events`` and
    ``requests``, responses in their calls.
    """

    def __init__(self, *, userid: int = USERID_UNKNOWN, rolemask: int = ROLE_NONE) -> None:
        self.ready = False
        self.output = bytearray()
        self.events: deque[Message] = deque()
        self.requests: deque[Message] = deque()
        self._userid = userid
        self._rolemask = rolemask
        self._decoder = FrameDecoder()
        self._calls: dict[int, Call] = {}
        self._last_matchtag = 0
        self._free_matchtags: list[int] = []

    def feed(self, data: bytes) -> list[Call]:
        """Take received bytes. Returns the calls that got a response, once for each.

        Raises OSError with the broker's errno if it refuses us (the greeting is one byte, 0 or the errno),
        ProtocolError if the bytes are not RFC 3. The connection is unusable after either.
        """
        if not self.ready and data:
            if data[0]:
                raise OSError(data[0], os.strerror(data[0]))
            self.ready = True
            data = data[1:]
        answered: list[Call] = []
        for message in self._decoder.feed(data):
            if message.type == RESPONSE:
                call = self._match(message)
                if call is not None:
                    answered.append(call)
            elif message.type == EVENT:
                self.events.append(message)
            elif message.type == REQUEST:
                self.requests.append(message)
        return answered

    def begin(self, call: Call, payload: bytes | None, own_rank: int = 0) -> None:
        """Send the request of ``call``, and match its responses to it.

        ``own_rank`` is the rank that we are connected to, which NODEID_UPSTREAM needs. Raises FluxError if no broker
        can have the call's rank.
        """
        if not 0 <= call.nodeid <= NODEID_ANY:
            raise FluxError(errno.EINVAL, f"{call.nodeid} is not the rank of a broker")
        call.matchtag = heappop(self._free_matchtags) if self._free_matchtags else self._next_matchtag()
        self._calls[call.matchtag] = call
        flags = FLAG_STREAMING if call.streaming else 0
        self._send_request(call.topic, payload, call.nodeid, flags, call.matchtag, own_rank)

    def post(
        self,
        topic: str,
        payload: bytes | None,
        nodeid: int = NODEID_ANY,
        own_rank: int = 0,
        flags: int = FLAG_NORESPONSE,
    ) -> None:
        """Send a request that wants no response."""
        self._send_request(topic, payload, nodeid, flags, MATCHTAG_NONE, own_rank)

    def abandon(self, call: Call) -> None:
        """Drop the responses of ``call``, including later ones.

        Its matchtag stays taken until the last of them has arrived, so that a late one does not match another
        request.
        """
        call.abandoned = True
        call.responses.clear()

    def publish(self, topic: str, payload: bytes | None, *, private: bool = False) -> None:
        """Send an event. Rank 0 gives it a sequence number, which we do not learn."""
        self.send(Message(EVENT, topic, payload, flags=FLAG_PRIVATE if private else 0, routes=[]))

    def respond(self, request: Message, payload: bytes | None = None, errnum: int = 0) -> None:
        """Answer a request to one of our services, unless its sender wants no answer."""
        if not request.wants_response:
            return
        response = request.response(payload, errnum)
        # Not the requester's credentials: the broker stamps those of the connection.
        response.userid, response.rolemask = USERID_UNKNOWN, ROLE_NONE
        self.send(response)

    def send(self, message: Message) -> None:
        """Send a message as it is, except that unset credentials become those given at construction."""
        if message.userid == USERID_UNKNOWN:
            message.userid = self._userid
        if message.rolemask == ROLE_NONE:
            message.rolemask = self._rolemask
        self.output += encode_frame(message)

    def _send_request(
        self, topic: str, payload: bytes | None, nodeid: int, flags: int, matchtag: int, own_rank: int
    ) -> None:
        if nodeid == NODEID_UPSTREAM:
            nodeid = own_rank
            flags |= FLAG_UPSTREAM
        self.send(Message(REQUEST, topic, payload, flags=flags, aux1=nodeid, aux2=matchtag, routes=[]))

    def _next_matchtag(self) -> int:
        self._last_matchtag += 1
        return self._last_matchtag

    def _match(self, message: Message) -> Call | None:
        call = self._calls.get(message.matchtag)
        if call is None:
            return None
        if not call.streaming or message.errnum:
            call.finished = True
            del self._calls[call.matchtag]
            heappush(self._free_matchtags, call.matchtag)
        if call.abandoned:
            return None
        call.responses.append(message)
        return call
