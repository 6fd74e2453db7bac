"""The tree of brokers: links to parent and children, their status, and what is lost when one goes.

Embedded brokers live on one host and talk over UNIX sockets in the rundir, one per broker that has children. The
kernel vouches that a peer is the same user. Frames and messages are those of the local socket.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    CONTROL,
    EVENT,
    MATCHTAG_NONE,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_LOCAL,
    ROLE_OWNER,
    Message,
    encode_json,
)
from pytest_flux.reactor.stream import Stream
from pytest_flux.reactor.usock import Connection, UsockServer, peer_credentials

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker

STATUS = ("unknown", "full", "partial", "degraded", "lost", "offline")
"""Subtree status, in the order of flux-core's numbers, which travel in control messages."""

UNKNOWN, FULL, PARTIAL, DEGRADED, LOST, OFFLINE = range(6)

CONTROL_STATUS = 1
_RETRY = 0.05
_IPC = "ipc://"


class Peer:
    """A connected neighbour. Requests sent to it are remembered, to be refused if it goes before it answers."""

    __slots__ = ("_pending", "_transmit", "rank", "uuid")

    def __init__(self, rank: int, uuid: str, transmit: Callable[[Message], None]) -> None:
        self.rank = rank
        self.uuid = uuid
        self._transmit = transmit
        self._pending: dict[tuple[tuple[str, ...], int], Message] = {}

    def send(self, message: Message) -> None:
        """Send any message."""
        if message.type == REQUEST and message.wants_response and message.matchtag != MATCHTAG_NONE:
            key = (tuple(message.routes or ()), message.matchtag)
            header = message.copy()
            header.payload = None
            self._pending[key] = header
        self._transmit(message)

    def settle(self, response: Message) -> None:
        """A response has come: the request is pending no more, unless it streams on."""
        if response.errnum or not response.is_streaming:
            self._pending.pop((tuple(response.routes or ()), response.matchtag), None)

    def abandon(self) -> list[Message]:
        """The requests that will not be answered any more."""
        pending, self._pending = list(self._pending.values()), {}
        return pending


class Child:
    """What is known of one child subtree."""

    __slots__ = ("connection", "peer", "rank", "since", "status")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.status = OFFLINE
        self.since = time.monotonic()
        self.connection: Connection | None = None
        self.peer: Peer | None = None


class Overlay:
    """Both ends of the tree's links at one broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.children = {rank: Child(rank) for rank in broker.router.topology.children(broker.rank)}
        self.parent: Peer | None = None
        self.status = PARTIAL if self.children else FULL
        self.since = time.monotonic()
        self.on_change: list[Callable[[Child], None]] = []
        self._server: UsockServer | None = None
        self._ranks: dict[str, int] = {}
        self._parent_stream: Stream | None = None
        self._on_parent: Callable[[], None] = lambda: None
        self._parting = False

    # -- wiring up

    def bind(self, path: str) -> str:
        """Listen for children. Returns the endpoint; OSError where the socket cannot be bound."""
        self._server = UsockServer(self.broker.reactor, path, self._from_child, self._child_gone)
        self._log(7, f"listening on {_IPC}{path}")
        return _IPC + path

    def connect(self, endpoint: str, connected: Callable[[], None]) -> None:
        """Connect to the parent, then call ``connected``. Tries until tbon.connect_timeout has passed."""
        if not endpoint.startswith(_IPC):
            raise FluxError(
                errno.EPROTONOSUPPORT,
                f"parent endpoint {endpoint}: embedded brokers talk over {_IPC} only; "
                "install flux-core for instances of several hosts",
            )
        self._on_parent = connected
        self._log(7, f"connecting to {endpoint}")
        self._try_connect(
            endpoint.removeprefix(_IPC), time.monotonic() + self.broker.duration("tbon.connect_timeout")
        )

    def _try_connect(self, path: str, deadline: float) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            uid, _ = peer_credentials(sock)
        except OSError as error:
            sock.close()
            if time.monotonic() >= deadline:
                self.lose_parent(f"{path}: {error.strerror}")
            else:
                self.broker.reactor.call_later(_RETRY, lambda: self._try_connect(path, deadline))
            return
        if uid != os.getuid():
            sock.close()
            self.lose_parent(f"{path}: belongs to user {uid}")
            return
        decoder = FrameDecoder()
        greeted = False

        def receive(data: bytes) -> None:
            nonlocal greeted
            if not greeted:
                if data[0]:
                    self.lose_parent(f"{path}: {os.strerror(data[0])}")
                    return
                greeted, data = True, data[1:]
            try:
                for message in decoder.feed(data):
                    self._from_parent(message)
            except ProtocolError as error:
                self.lose_parent(str(error))

        self._parent_stream = Stream(
            self.broker.reactor, sock, receive, lambda: self.lose_parent("connection lost")
        )
        self._hello()

    def _hello(self) -> None:
        payload = {
            "rank": self.broker.rank,
            "version": self.broker.attributes.get("version"),
            "uuid": self.broker.uuid,
            "status": self.status,
            "hostname": self.broker.hostname,
        }
        self._to_parent(
            Message(
                REQUEST,
                "overlay.hello",
                encode_json(payload),
                aux1=NODEID_ANY,
                userid=os.getuid(),
                rolemask=1,
                routes=[],
            )
        )

    def _to_parent(self, message: Message) -> None:
        if self._parent_stream is not None:
            self._parent_stream.write(encode_frame(message))

    # -- from the parent

    def _from_parent(self, message: Message) -> None:
        router = self.broker.router
        message.rolemask &= ~ROLE_LOCAL
        if self.parent is None:
            self._greeted(message)
        elif message.type == EVENT:
            router.receive_event(message)
        elif message.type == RESPONSE:
            self.parent.settle(message)
            router.respond(message)
        elif message.type == REQUEST and message.routes is not None:
            message.routes.append(self.parent.uuid)
            router.request(message)

    def _greeted(self, message: Message) -> None:
        if message.errnum:
            reason = (message.payload or b"").rstrip(b"\0").decode() or os.strerror(message.errnum)
            self.lose_parent(f"refused by parent: {reason}")
            return
        rank = self.broker.router.parent
        assert rank is not None
        self.parent = peer = Peer(rank, str(message.json()["uuid"]), self._to_parent)
        self.broker.router.peers[rank] = peer.send
        self.broker.router.routes[peer.uuid] = peer.send
        self._log(7, f"hello parent {rank} {peer.uuid}")
        self._on_parent()

    def lose_parent(self, reason: str) -> None:
        """The parent is gone, or cannot be reached: this broker cannot stay."""
        if self._parent_stream is not None:
            self._parent_stream.close()
            self._parent_stream = None
        peer, self.parent = self.parent, None
        if peer is not None:
            self._unlink(peer)
        if not self._parting:
            self._log(6, f"parent: {reason}")
            self.broker.state_machine.fail("parent-fail")

    def part(self) -> None:
        """Say goodbye: what the parent does from here on is no loss."""
        self._parting = True

    # -- from children

    def _from_child(self, connection: Connection, message: Message) -> None:
        router = self.broker.router
        message.rolemask &= ~ROLE_LOCAL
        rank = self._ranks.get(connection.uuid)
        if rank is None:
            self._admit(connection, message)
            return
        child = self.children[rank]
        assert child.peer is not None
        if message.type == REQUEST and message.routes is not None:
            message.routes.append(child.peer.uuid)
            router.request(message)
        elif message.type == RESPONSE:
            child.peer.settle(message)
            router.respond(message)
        elif message.type == EVENT:
            router.send_event(message)
        elif message.type == CONTROL and message.aux1 == CONTROL_STATUS:
            self.set_status(child, message.aux2 if message.aux2 < len(STATUS) else UNKNOWN)

    def _admit(self, connection: Connection, message: Message) -> None:
        try:
            if message.topic != "overlay.hello":
                raise FluxError(errno.EPROTO, "hello expected")
            child, uuid, status, host = self._check_hello(message.json())
        except (FluxError, ProtocolError, KeyError, TypeError) as error:
            text = str(getattr(error, "text", None) or error)
            connection.send(message.response(text.encode() + b"\0", errno.EINVAL))
            self._log(3, f"rejecting connection: {text}")
            return
        if child.connection is not None:
            child.connection.close()
        self._ranks[connection.uuid] = child.rank
        child.connection = connection
        child.peer = Peer(child.rank, uuid, connection.send)
        self.broker.router.peers[child.rank] = child.peer.send
        self.broker.router.routes[uuid] = child.peer.send
        self._log(7, f"accepting connection from {host} (rank {child.rank}) status {STATUS[status]}")
        response = message.response(encode_json({"uuid": self.broker.uuid}))
        response.rolemask = ROLE_OWNER
        connection.send(response)
        self.set_status(child, status)

    def _check_hello(self, hello: dict[str, Any]) -> tuple[Child, str, int, str]:
        rank, version, uuid, status = hello["rank"], hello["version"], hello["uuid"], hello["status"]
        mine = self.broker.attributes.get("version")
        if rank not in self.children:
            raise FluxError(
                errno.EINVAL, f"rank {rank} is not a peer of parent {self.broker.rank}: mismatched config?"
            )
        if version != mine:
            raise FluxError(errno.EINVAL, f"client (v{version}) is not compatible with server (v{mine})")
        if not self.broker.state_machine.admits_children:
            raise FluxError(errno.EINVAL, f"broker {self.broker.rank} is shutting down")
        return self.children[rank], str(uuid), int(status), str(hello["hostname"])

    def _child_gone(self, connection: Connection) -> None:
        rank = self._ranks.pop(connection.uuid, None)
        if rank is None or self.children[rank].connection is not connection:
            return
        child = self.children[rank]
        parted = child.status == OFFLINE
        if not parted:
            host = self.broker.host_of(rank)
            self._log(3, f"broker {host} (rank {rank}) has disconnected unexpectedly. Marking it LOST")
        self.drop(child, OFFLINE if parted else LOST)

    def drop(self, child: Child, status: int) -> None:
        """Forget the link to a child; its subtree now has ``status``."""
        connection, peer, child.connection, child.peer = child.connection, child.peer, None, None
        if connection is not None:
            self._ranks.pop(connection.uuid, None)
            connection.close()
        self.set_status(child, status)
        if peer is not None:
            self._unlink(peer)

    def _unlink(self, peer: Peer) -> None:
        router = self.broker.router
        router.peers.pop(peer.rank, None)
        router.routes.pop(peer.uuid, None)
        for request in peer.abandon():
            router.refuse(request, errno.EHOSTUNREACH)

    # -- status

    def set_status(self, child: Child, status: int) -> None:
        """Take over a child's status; tell the parent when that changes ours."""
        if child.status == status:
            return
        child.status, child.since = status, time.monotonic()
        self._update_status()
        for changed in list(self.on_change):
            changed(child)

    def _update_status(self) -> None:
        status = FULL
        for child in self.children.values():
            if child.status in (DEGRADED, LOST):
                status = DEGRADED
            elif child.status in (PARTIAL, OFFLINE) and status == FULL:
                status = PARTIAL
        if status != self.status:
            self.status, self.since = status, time.monotonic()
            if self.parent is not None:
                self.parent.send(
                    Message(
                        CONTROL, aux1=CONTROL_STATUS, aux2=status, userid=os.getuid(), rolemask=ROLE_OWNER
                    )
                )

    @property
    def is_childless(self) -> bool:
        """Whether no child subtree is online."""
        return all(child.status in (OFFLINE, LOST) for child in self.children.values())

    def close(self) -> None:
        """Drop all links and the socket."""
        self._parting = True
        if self._parent_stream is not None:
            self._parent_stream.close(flush=True)
        if self._server is not None:
            self._server.close()

    def _log(self, severity: int, text: str) -> None:
        self.broker.log.write(severity, text, "overlay")
