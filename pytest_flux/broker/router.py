"""Route messages to a local service, a local client, or a peer.

Each hop pushes the sender of a request onto its route stack; the response pops its way back (RFC 3, message route
stack). Events go up to rank 0, get their sequence number there, and come down to every broker in order.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import count

from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import (
    EVENT,
    FLAG_NORESPONSE,
    FLAG_PRIVATE,
    FLAG_STREAMING,
    FLAG_UPSTREAM,
    NODEID_ANY,
    REQUEST,
    ROLE_LOCAL,
    ROLE_OWNER,
    Message,
    encode_json,
    encode_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Receiver = Callable[[Message], None]
EventCallback = Callable[[Message], None]


_EIO_TEXT = "internal error, see the broker's log"


def _call_directly(callback: Callable[..., object], *arguments: object) -> bool:
    callback(*arguments)
    return True


class Router:
    """The switch in the middle of a broker. ``peers`` maps ranks of connected neighbours to their senders.

    ``call`` calls back and returns whether that succeeded (see Reactor.call): if a receiver raises, its request gets
    an error, and nobody else is affected.
    """

    def __init__(self, uuid: str, rank: int, topology: Topology, call: Callable[..., bool] = _call_directly) -> None:
        self._call = call
        self.uuid = uuid
        self.rank = rank
        self.topology = topology
        self.size = topology.size
        self.parent = topology.parent(rank)
        self.services: dict[str, Receiver] = {}
        self.routes: dict[str, Receiver] = {uuid: self._receive_own}
        self.peers: dict[int, Receiver] = {}
        self.on_event: list[EventCallback] = []
        self.tracers: list[Callable[[str, int, Message, str], None]] = []
        self._calls: dict[int, Callable[[Message], None]] = {}
        self._subscriptions: list[tuple[str, EventCallback]] = []
        self._matchtags = count(1)
        self._sequence = 0

    # -- requests and responses

    def request(self, message: Message) -> None:
        """Route a request (flux-core's broker_request_send: upstream flag and nodeid decide)."""
        service = self.services.get((message.topic or "").partition(".")[0])
        nodeid = message.nodeid
        if message.flags & FLAG_UPSTREAM and nodeid == self.rank:
            self._to_parent(message)
        elif nodeid == NODEID_ANY or message.flags & FLAG_UPSTREAM:
            if service is not None:
                self._serve(service, message)
            else:
                self._to_parent(message)
        elif nodeid == self.rank:
            if service is not None:
                self._serve(service, message)
            else:
                self._refuse_unknown(message)
        else:
            hop = self.topology.next_hop(self.rank, nodeid)
            peer = self.peers.get(hop) if hop is not None else None
            if peer is not None:
                peer(message)
            else:
                self.refuse(message, errno.EHOSTUNREACH)

    def _serve(self, service: Receiver, message: Message) -> None:
        if not self._call(service, message):
            self.refuse(message, errno.EIO, _EIO_TEXT)

    def _to_parent(self, message: Message) -> None:
        if self.parent is None:
            if message.flags & FLAG_UPSTREAM:
                self.refuse(message, errno.EHOSTUNREACH)
            else:
                self._refuse_unknown(message)
        elif (peer := self.peers.get(self.parent)) is not None:
            peer(message)
        else:
            self.refuse(message, errno.EHOSTUNREACH)

    def _refuse_unknown(self, message: Message) -> None:
        self.refuse(message, errno.ENOSYS, f"No service matching {message.topic} is registered")

    def refuse(self, message: Message, errnum: int, text: str | None = None) -> None:
        """Answer a request with an error, on behalf of a service that cannot."""
        if message.wants_response:
            response = message.response(encode_text(text), errnum)
            response.userid, response.rolemask = os.getuid(), ROLE_OWNER
            self.respond(response)

    def respond(self, message: Message) -> None:
        """Route a response to the hop that its request came from. It is dropped if that hop has disconnected."""
        if message.routes:
            receiver = self.routes.get(message.routes.pop())
            if receiver is not None:
                receiver(message)

    # -- requests of the broker itself

    def rpc(
        self,
        topic: str,
        payload: dict[str, Any] | bytes | None = None,
        callback: Callable[[Message], None] | None = None,
        *,
        nodeid: int = NODEID_ANY,
        upstream: bool = False,
        streaming: bool = False,
    ) -> int:
        """Send a request of the broker itself; ``callback`` gets each response. Returns its matchtag.

        ``upstream`` addresses the parent, even if this broker has the service.
        """
        flags = FLAG_STREAMING if streaming else 0
        matchtag = 0
        if callback is None:
            flags |= FLAG_NORESPONSE
        else:
            matchtag = next(self._matchtags)
            self._calls[matchtag] = callback
        if upstream:
            flags |= FLAG_UPSTREAM
            nodeid = self.rank
        self.request(
            Message(
                REQUEST,
                topic,
                encode_json(payload) if isinstance(payload, dict) else payload,
                flags=flags,
                userid=os.getuid(),
                rolemask=ROLE_OWNER | ROLE_LOCAL,
                aux1=nodeid,
                aux2=matchtag,
                routes=[self.uuid],
            )
        )
        return matchtag

    def _receive_own(self, message: Message) -> None:
        callback = self._calls.get(message.matchtag)
        if callback is None:
            return
        if message.errnum or not message.is_streaming:
            del self._calls[message.matchtag]
        self._call(callback, message)

    # -- events

    def subscribe(self, prefix: str, callback: EventCallback) -> None:
        """Call back for every event whose topic begins with ``prefix``."""
        self._subscriptions.append((prefix, callback))

    def unsubscribe(self, callback: EventCallback) -> None:
        """Call back no longer."""
        self._subscriptions = [entry for entry in self._subscriptions if entry[1] != callback]

    def publish(self, topic: str, payload: bytes | None = None, *, private: bool = False) -> None:
        """Publish an event of the broker itself."""
        self.send_event(
            Message(
                EVENT,
                topic,
                payload,
                flags=FLAG_PRIVATE if private else 0,
                userid=os.getuid(),
                rolemask=ROLE_OWNER,
            )
        )

    def send_event(self, message: Message) -> int:
        """Pass an event up; on rank 0, number it and send it to all. Returns the number (0 on other ranks)."""
        if self.parent is not None:
            peer = self.peers.get(self.parent)
            if peer is not None:
                peer(message)
            return 0
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF or 1
        message.aux1 = self._sequence
        self.receive_event(message)
        return self._sequence

    def receive_event(self, message: Message) -> None:
        """Send a numbered event to our children, then to the subscribers of this broker."""
        for rank in list(self.peers):
            if rank != self.parent:
                self.peers[rank](message)
        for prefix, callback in self._subscriptions:
            if (message.topic or "").startswith(prefix):
                self._call(callback, message)
        for deliver in self.on_event:
            self._call(deliver, message)

    def add_service(self, name: str, receiver: Receiver) -> None:
        """Register a service. FluxError EEXIST when the name is taken."""
        if name in self.services:
            raise FluxError(errno.EEXIST)
        self.services[name] = receiver
