"""The streams of `overlay.trace` and `module.trace`: messages between a broker and its neighbours or its modules."""

from __future__ import annotations

from pytest_flux.broker.overlay.peers import DISCONNECT, HEARTBEAT, STATUS_CHANGE
from pytest_flux.broker.service import Request
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.message import CONTROL, RESPONSE, Message
from pytest_flux.reactor.clock import Clock

_CONTROLS = {HEARTBEAT: "heartbeat", STATUS_CHANGE: "status", DISCONNECT: "disconnect"}


class Tracer:
    """Answers a request, ``{typemask, topic_glob, nodeid?, names?, full?}``, for each message that matches."""

    def __init__(self, request: Request, clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self._types = request.field("typemask", int)
        self._glob = request.field("topic_glob", str)
        self._rank = request.field("nodeid", int, -1)
        self._names = request.field("names", list, [])
        self._full = request.field("full", bool, False)

    def __call__(self, prefix: str, rank: int, message: Message, name: str | None = None) -> None:
        """Report a message; ``name`` is the module that sends or receives it. A rank of -1 is nobody's."""
        # Messages of a trace are not traced, or it would never end.
        if message.topic == self._request.topic or not self._fits(rank, message):
            return
        if self._names and name not in self._names:
            return
        errnum = message.errnum if message.type == RESPONSE else 0
        self._request.respond(
            {
                "timestamp": self._clock.time(),
                "prefix": prefix,
                "rank": rank,
                "name": name,
                "type": message.type,
                "topic": _topic(message),
                "payload_size": 0 if errnum else len(message.payload or b""),
                "payload": _json(message) if self._full and not errnum else None,
                "errnum": errnum,
                "errstr": (message.text() or "") if self._full and errnum else "",
            }
        )

    def _fits(self, rank: int, message: Message) -> bool:
        if self._types and not message.type & self._types:
            return False
        if self._rank not in (-1, rank):
            return False
        if self._glob in ("", "*"):
            return True
        from fnmatch import fnmatchcase

        return message.topic is not None and fnmatchcase(message.topic, self._glob)


def _topic(message: Message) -> str:
    if message.type == CONTROL:
        return f"{_CONTROLS.get(message.aux1, 'unknown')} {message.aux2}"
    return message.topic or ""


def _json(message: Message) -> object:
    try:
        return message.json() if message.payload else None
    except ProtocolError:
        return None
