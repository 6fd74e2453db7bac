"""Neighbours in the tree of brokers, and the status of the subtrees below."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import MATCHTAG_NONE, REQUEST, Message
from pytest_flux.reactor.usock import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATUS = ("unknown", "full", "partial", "degraded", "lost", "offline")
"""Subtree status, in the order of flux-core's numbers, which travel in control messages."""

UNKNOWN, FULL, PARTIAL, DEGRADED, LOST, OFFLINE = range(6)

HEARTBEAT, STATUS_CHANGE, DISCONNECT = range(3)
"""Types of the control messages between neighbours, with flux-core's numbers."""

Tracers = list[Callable[[str, int, Message], None]]
"""Called with "tx" or "rx", the neighbour's rank, and a message."""

_Key = tuple[tuple[str, ...], int]


class Peer:
    """A connected neighbour. Requests sent to it are remembered, to refuse them if it disconnects."""

    __slots__ = ("_monotonic", "_pending", "_transmit", "rank", "sent_at", "tracers", "uuid")

    def __init__(
        self,
        rank: int,
        uuid: str,
        transmit: Callable[[Message], None],
        tracers: Tracers,
        monotonic: Callable[[], float],
    ) -> None:
        self.rank = rank
        self.uuid = uuid
        self._monotonic = monotonic
        self.sent_at = monotonic()
        self.tracers = tracers
        self._transmit = transmit
        self._pending: dict[_Key, Message] = {}

    def send(self, message: Message) -> None:
        """Send any message."""
        self.sent_at = self._monotonic()
        if message.type == REQUEST:
            self._remember(message)
        self._transmit(message)
        for trace in self.tracers:
            trace("tx", self.rank, message)

    def _remember(self, request: Message) -> None:
        topic, routes = request.topic or "", tuple(request.routes or ())
        service, _, method = topic.rpartition(".")
        if request.wants_response and request.matchtag != MATCHTAG_NONE:
            header = request.copy()
            header.payload = None
            self._pending[routes, request.matchtag] = header
        elif method == "disconnect":
            # The client has disconnected: none of its requests to this service will be answered.
            prefix = service + "."
            for key in [key for key in self._pending if key[0] == routes]:
                if (self._pending[key].topic or "").startswith(prefix):
                    del self._pending[key]

    def settle(self, response: Message) -> None:
        """Forget the request of a response, unless more responses follow."""
        if response.errnum or not response.is_streaming:
            self._pending.pop((tuple(response.routes or ()), response.matchtag), None)

    @property
    def pending(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)

    def abandon(self) -> list[Message]:
        """Take the requests that will never be answered."""
        pending, self._pending = list(self._pending.values()), {}
        return pending


class Child:
    """One child and the subtree below it. ``error`` says why it went offline."""

    __slots__ = ("connection", "error", "heard_at", "is_torpid", "peer", "rank", "since", "status")

    def __init__(self, rank: int, now: float) -> None:
        self.rank = rank
        self.status = OFFLINE
        self.since = now
        self.error = ""
        self.heard_at = 0.0
        self.is_torpid = False
        self.connection: Connection | None = None
        self.peer: Peer | None = None

    @property
    def is_online(self) -> bool:
        """Whether it can be talked to."""
        return self.status not in (LOST, OFFLINE)


def subtree_status(children: list[Child]) -> int:
    """The status of a broker's own subtree, the broker included."""
    status = FULL
    for child in children:
        if child.status in (DEGRADED, LOST):
            return DEGRADED
        if child.status in (PARTIAL, OFFLINE):
            status = PARTIAL
    return status


def check_hello(
    hello: dict[str, Any], children: dict[int, Child], rank: int, version: str, secret: str | None
) -> tuple[Child, str, int]:
    """Check the ``overlay.hello`` of a child of broker ``rank``: the child, its uuid and the status of its subtree.

    FluxError EINVAL, in Flux's words, if it must not be admitted, EPERM if it does not know ``secret``; KeyError,
    TypeError or ValueError for a malformed request.
    """
    peer, theirs = int(hello["rank"]), hello["version"]
    if peer not in children:
        raise FluxError(errno.EINVAL, f"rank {peer} is not a child of rank {rank}: mismatched config?")
    if secret is not None and hello.get("secret") != secret:
        raise FluxError(errno.EPERM, f"rank {peer} does not know the secret of this instance")
    child = children[peer]
    if theirs != version:
        child.error = f"client ({theirs}) version mismatched with server ({version})"
        raise FluxError(errno.EINVAL, child.error)
    status = int(hello["status"])
    return child, str(hello["uuid"]), status if 0 <= status < len(STATUS) else UNKNOWN
