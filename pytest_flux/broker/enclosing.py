"""The enclosing instance, of which this one is a job: we tell it our URI, and it tells us our resources.

Only rank 0 talks to it, as a client of its local socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    FLAG_STREAMING,
    NODEID_ANY,
    REQUEST,
    ROLE_NONE,
    USERID_UNKNOWN,
    Message,
    encode_json,
)
from pytest_flux.protocol.resource_set import ResourceSet
from pytest_flux.protocol.severity import LOG_ERR
from pytest_flux.reactor.stream import Stream

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.reactor.reactor import Reactor

_PATIENCE = 10.0
"""Seconds to wait for an answer without which nothing can be done."""

_CHUNK = 1 << 16


class Enclosing:
    """The connection. OSError or ProtocolError if it cannot be opened."""

    def __init__(self, reactor: Reactor, attributes: Attributes, log: BrokerLog) -> None:
        self._monotonic = reactor.monotonic
        self._attributes = attributes
        self._log = log
        self._jobid = parse_fluid(attributes.get("jobid") or "")
        self._decoder = FrameDecoder()
        self._callbacks: dict[int, Callable[[Message], None]] = {}
        self._matchtags = count(1)
        self._resources: ResourceSet | None = None
        self._answered = False
        self.on_expiration: Callable[[float], None] | None = None
        uri = attributes.get("parent-uri") or ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(uri.removeprefix("local://"))
            if self._socket.recv(1) != b"\0":
                raise ProtocolError("the enclosing instance refuses the connection", uri)
        except BaseException:
            self._socket.close()
            raise
        self._stream = Stream(reactor, self._socket, self._receive, self._lost)
        request = {"id": self._jobid, "key": "R", "flags": 0}
        self._rpc("job-info.update-watch", request, self._told_resources, streaming=True)

    def introduce(self) -> None:
        """Report the URI of this instance, and its critical ranks."""
        attributes = self._attributes
        path = (attributes.get("local-uri") or "").removeprefix("local://")
        memo = {"uri": f"ssh://{attributes.get('hostname')}{path}"}
        self._rpc("job-manager.memo", {"id": self._jobid, "memo": memo}, _ignore)
        ranks = attributes.get("broker.critical-ranks") or ""
        self._rpc("job-exec.critical-ranks", {"id": self._jobid, "ranks": ranks}, _ignore)

    def resources(self) -> ResourceSet | None:
        """The resources of the job that is this instance, None if they are unknown. May wait for the answer."""
        deadline = self._monotonic() + _PATIENCE
        while not self._answered and self._stream.is_open and self._monotonic() < deadline:
            self._socket.settimeout(max(0.01, deadline - self._monotonic()))
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                break
            finally:
                if self._stream.is_open:
                    self._socket.setblocking(False)
            if not data:
                break
            self._receive(data)
        return self._resources

    def close(self) -> None:
        """Disconnect."""
        self._stream.close()

    def _rpc(
        self, topic: str, payload: dict[str, Any], callback: Callable[[Message], None], *, streaming: bool = False
    ) -> None:
        matchtag = next(self._matchtags)
        self._callbacks[matchtag] = callback
        message = Message(
            REQUEST,
            topic,
            encode_json(payload),
            flags=FLAG_STREAMING if streaming else 0,
            userid=USERID_UNKNOWN,
            rolemask=ROLE_NONE,
            aux1=NODEID_ANY,
            aux2=matchtag,
            routes=[],
        )
        self._stream.write(encode_frame(message))

    def _receive(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except ProtocolError:
            self._stream.close()
            return
        for message in messages:
            callback = self._callbacks.get(message.matchtag)
            if callback is not None:
                callback(message)

    def _told_resources(self, message: Message) -> None:
        try:
            if not message.errnum:
                self._resources = ResourceSet.decode(message.json()["R"])
        except (ProtocolError, KeyError) as error:
            self._log.write(LOG_ERR, f"R of the enclosing instance: {error}", "resource")
        if self._answered and self._resources is not None and self.on_expiration is not None:
            self.on_expiration(self._resources.expiration)
        self._answered = True

    def _lost(self) -> None:
        """It may end before us: then it ends us, too, as it ends its other jobs."""


def _ignore(_: Message) -> None:
    """Its answer changes nothing."""


def find_enclosing(reactor: Reactor, attributes: Attributes, log: BrokerLog) -> Enclosing | None:
    """The enclosing instance, if there is one that can be reached; errors are logged."""
    if not attributes.get("parent-uri") or not attributes.get("jobid"):
        return None
    try:
        return Enclosing(reactor, attributes, log)
    except (OSError, ProtocolError) as error:
        log.write(LOG_ERR, f"error opening {attributes.get('parent-uri')}: {error}")
        return None
