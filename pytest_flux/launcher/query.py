"""Ask a broker about itself that has just been started and may not listen yet.

This is for real brokers, whose command line and environment we must not extend. An embedded one need not be asked.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import NODEID_ANY, REQUEST, Message, encode_json
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import Stream
from pytest_flux.reactor.timers import Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Requests = tuple[tuple[str, dict[str, Any]], ...]

#: The request for the state of a broker's state machine.
STATE: Requests = (("state-machine.get", {}),)

_GROWTH = 0.1


class BrokerQuery:
    """Sends requests to the broker at ``path`` as soon as it listens, and calls back with the responses.

    ``answered`` gets their payloads, in order; an empty list if the broker refuses, or sends an error. Until the
    broker listens, connecting is tried every ``interval`` seconds, and less and less often after some seconds.
    """

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        requests: Requests,
        answered: Callable[[list[dict[str, Any]]], None],
        *,
        interval: float,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._requests = requests
        self._answered = answered
        self._interval = interval
        self._start = time.monotonic()
        self._stream: Stream | None = None
        self._timer: Timer | None = reactor.call_later(interval, self._ask)
        self._forget()

    def cancel(self) -> None:
        """Cancel the requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _forget(self) -> None:
        self._accepted = False
        self._decoder = FrameDecoder()
        self._payloads: dict[int, dict[str, Any]] = {}

    def _ask(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            self._ask_later()
            return
        self._forget()
        self._stream = Stream(self._reactor, connection, self._receive, self._ask_later)
        for matchtag, (topic, payload) in enumerate(self._requests, 1):
            request = Message(REQUEST, topic, encode_json(payload), aux1=NODEID_ANY, aux2=matchtag, routes=[])
            self._stream.write(encode_frame(request))

    def _ask_later(self) -> None:
        self._stream = None
        delay = max(self._interval, _GROWTH * (time.monotonic() - self._start))
        self._timer = self._reactor.call_later(delay, self._ask)

    def _receive(self, data: bytes) -> None:
        if not self._accepted:
            # The first byte is 0 if the broker accepts us, else an errno.
            if data[0]:
                self._end([])
                return
            self._accepted = True
            data = data[1:]
        try:
            for response in self._decoder.feed(data):
                if response.errnum:
                    self._end([])
                    return
                self._payloads[response.matchtag] = response.json()
        except ProtocolError:
            self._end([])
            return
        if len(self._payloads) == len(self._requests):
            self._end([payload for _, payload in sorted(self._payloads.items())])

    def _end(self, payloads: list[dict[str, Any]]) -> None:
        self.cancel()
        self._answered(payloads)
