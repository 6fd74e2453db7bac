"""A broker's link to its parent in the tree."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from pytest_flux.broker.flow import HIGH, LOW
from pytest_flux.broker.overlay.peers import DISCONNECT, HEARTBEAT, STATUS_CHANGE, Peer
from pytest_flux.broker.overlay.secret import read_secret, secret_path
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.limits import UNREAD_OF_PEER
from pytest_flux.protocol.message import (
    CONTROL,
    EVENT,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_LOCAL,
    ROLE_OWNER,
    Message,
    encode_json,
)
from pytest_flux.protocol.severity import LOG_CRIT, LOG_DEBUG, LOG_ERR
from pytest_flux.reactor.stream import Stream
from pytest_flux.reactor.usock import peer_credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.ports import Tree
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor

IPC = "ipc://"
_RETRY = 0.05


class ParentLink:
    """The link from the first attempt to connect to the loss of the parent, when ``lost`` is called once.

    FluxError for an endpoint that is not a UNIX socket. ``connected`` is called when the parent has accepted us;
    until then ``peer`` is None.
    """

    def __init__(
        self,
        tree: Tree,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        rank: int,
        endpoint: str,
        secret: str | None,
        connected: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        if not endpoint.startswith(IPC):
            raise FluxError(
                errno.EPROTONOSUPPORT,
                f"parent endpoint {endpoint}: embedded brokers talk over {IPC} only; "
                "install flux-core for instances of several hosts",
            )
        self.peer: Peer | None = None
        self.rank = rank
        self._is_parting = self._is_closed = self._is_congested = False
        self._tree = tree
        self._reactor = reactor
        self._monotonic = reactor.monotonic
        self._router = router
        self._attributes = attributes
        self._connected = connected
        self._lost = lost
        self._path = endpoint.removeprefix(IPC)
        self._secret = secret
        self._stream: Stream | None = None
        self._decoder = FrameDecoder()
        self._greeted = False
        self._told = tree.status
        self._deadline = self._monotonic() + attributes.duration("tbon.connect_timeout")
        tree.log(LOG_DEBUG, f"connecting to {endpoint}")
        self._reactor.call_soon(self._connect)

    def _connect(self) -> None:
        if self._is_closed:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self._path)
            uid, _ = peer_credentials(sock)
        except OSError as error:
            sock.close()
            if self._monotonic() < self._deadline:
                self._reactor.call_later(_RETRY, self._connect)
            else:
                self._fail(f"{self._path}: {error.strerror}")
            return
        if uid != os.getuid():
            sock.close()
            self._fail(f"{self._path}: belongs to user {uid}")
            return
        self._stream = Stream(
            self._reactor,
            sock,
            self._receive,
            self._drop,
            limit=UNREAD_OF_PEER,
            spool=self._attributes.get("rundir"),
        )
        self._hello()

    def _hello(self) -> None:
        self._told = self._tree.status
        payload = {
            "rank": self._router.rank,
            "version": self._attributes.get("version"),
            "uuid": self._router.uuid,
            "status": self._told,
            "hostname": self._attributes.get("hostname"),
            "secret": read_secret(secret_path(self._path)) if self._secret is None else self._secret,
        }
        self._transmit(self._request("overlay.hello", encode_json(payload)))

    def _request(self, topic: str, payload: bytes | None = None) -> Message:
        return Message(
            REQUEST,
            topic,
            payload,
            aux1=NODEID_ANY,
            userid=os.getuid(),
            rolemask=ROLE_OWNER,
            routes=[self._router.uuid],
        )

    def _transmit(self, message: Message) -> None:
        if self._stream is not None:
            self._stream.write(encode_frame(message))
            if self._stream.unsent > HIGH and not self._is_congested:
                self._is_congested = True
                self._stream.when_below(LOW, self._drained)
                self._tree.congest(True)

    def _drained(self) -> None:
        self._is_congested = False
        self._tree.congest(False)

    # -- from the parent

    def _receive(self, data: bytes) -> None:
        if not self._greeted:
            if data[0]:
                self._fail(f"{self._path}: {os.strerror(data[0])}")
                return
            self._greeted, data = True, data[1:]
        try:
            for message in self._decoder.feed(data):
                if self._stream is not None:
                    self._dispatch(message)
        except ProtocolError as error:
            self._fail(str(error))

    def _dispatch(self, message: Message) -> None:
        router = self._router
        message.rolemask &= ~ROLE_LOCAL
        for trace in self._tree.tracers:
            trace("rx", self.rank, message)
        if message.type == CONTROL:
            if message.aux1 == DISCONNECT:
                host = self._attributes.host_of(self.rank)
                self._tree.log(LOG_CRIT, f"{host} (rank {self.rank}) sent disconnect control message")
                self._drop()
        elif self.peer is None:
            self._welcome(message)
        elif message.type == EVENT:
            router.receive_event(message)
        elif message.type == RESPONSE:
            if self._is_parting and message.topic == "overlay.goodbye":
                self._lost()
            else:
                self.peer.settle(message)
                router.respond(message)
        elif message.routes is not None:
            message.routes.append(self.peer.uuid)
            router.request(message)

    def _welcome(self, message: Message) -> None:
        if message.errnum:
            self._fail(message.text() or os.strerror(message.errnum))
            return
        uuid = str(message.json().get("uuid"))
        self.peer = Peer(self.rank, uuid, self._transmit, self._tree.tracers, self._monotonic)
        self._tree.log(LOG_DEBUG, f"hello parent {self.rank} {uuid}")
        if self._told != self._tree.status:
            # Children have connected while the answer was on its way.
            self.tell_status(self._tree.status)
        self._connected()

    # -- to the parent

    def control(self, kind: int, status: int = 0) -> None:
        """Send a control message, if the parent has accepted us."""
        if self.peer is not None:
            self.peer.send(Message(CONTROL, aux1=kind, aux2=status, userid=os.getuid(), rolemask=ROLE_OWNER))

    def tell_status(self, status: int) -> None:
        """Report a change of our subtree's status."""
        self.control(STATUS_CHANGE, status)

    def beat(self, torpid_min: float) -> None:
        """Send a heartbeat if nothing else was sent for ``torpid_min`` seconds."""
        if self.peer is not None and self._monotonic() - self.peer.sent_at > torpid_min:
            self.control(HEARTBEAT)

    def part(self) -> None:
        """Ask to be marked offline: the answer calls ``lost``, as the end of the connection does."""
        self._is_parting = True
        self._transmit(self._request("overlay.goodbye"))

    # -- its end

    def _fail(self, reason: str) -> None:
        self._tree.log(LOG_ERR, f"overlay.hello: {reason}" if self.peer is None else f"parent: {reason}")
        self._drop()

    def _drop(self) -> None:
        self.close()
        self._lost()

    def close(self) -> None:
        """Close the connection, once everything is sent."""
        self._is_closed = True
        if self._stream is not None:
            self._stream.close(flush=True)
            self._stream = None
