"""The overlay network (TBON): links to parent and children, their status, and the clean-up when one is lost.

Sockets
-------

flux-core connects its brokers with ZeroMQ over TCP, with CURVE keys, or over ``ipc://`` on one host. Embedded brokers
always run on one host, so a link is a UNIX stream socket: each broker that has children listens on one in the rundir
(``ipc://RUNDIR/tbon-RANK``). The kernel then authenticates the peer's user, reports the end of a peer at once, and
applies back-pressure; no library and no key exchange is needed. The frames are those of the local socket (RFC 3 in
the framing of connector-local), and the requests between neighbours are flux-core's: ``overlay.hello``,
``overlay.goodbye``, and control messages for heartbeat, status and disconnect (src/broker/overlay.c).

What a link promises
--------------------

* Messages arrive in order and unchanged, or the link is lost. Nothing is resent.
* Every request that was sent over a link gets an answer. :class:`Peer` remembers the header of each pending request;
  when the link is lost, the broker itself answers them with EHOSTUNREACH.
* Credentials survive, except ROLE_LOCAL, which only the broker of the client itself may grant.
* A rank is who the launcher started. Any process of the user can connect to the socket, so ``overlay.hello`` must
  show the secret of the instance, which rank 0 makes at each boot and publishes in its business card over PMI. With a
  ``[bootstrap]`` table there is no PMI: each parent writes a secret for its children beside its socket (mode 0600).
* No link is cut for being slow. What a neighbour does not read yet waits in a file in the rundir (see Stream), and a
  parent handles no further requests of a child that has not read its answers (see UsockServer, ``waits``). A child
  always reads, so they cannot wait for each other.

How a loss is noticed
---------------------

A broker that ends closes its socket: both neighbours notice at once. A broker that stops (SIGSTOP, a blocked disk)
keeps its socket, so each broker sends heartbeats when it has nothing else to send, and a parent marks a silent child
torpid (see torpid.py) but does not drop it: it may continue. A child that lost its parent cannot reconnect, as in
flux-core: it shuts down (``state_machine.lose_parent``). A parent that lost a child marks the subtree lost, drops it
from all groups, and goes on.

Status travels up: a broker combines the states of its children to that of its subtree and reports each change.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from pytest_flux.broker.overlay.parent_link import IPC, ParentLink
from pytest_flux.broker.overlay.peers import (
    DISCONNECT,
    FULL,
    LOST,
    OFFLINE,
    PARTIAL,
    STATUS,
    STATUS_CHANGE,
    UNKNOWN,
    Child,
    Peer,
    Tracers,
    check_hello,
    subtree_status,
)
from pytest_flux.broker.overlay.secret import remove_secret, secret_path, write_secret
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.limits import UNREAD_OF_PEER
from pytest_flux.protocol.message import (
    CONTROL,
    EVENT,
    REQUEST,
    RESPONSE,
    ROLE_LOCAL,
    ROLE_OWNER,
    Message,
    encode_json,
    encode_text,
)
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_ERR
from pytest_flux.reactor.usock import Connection, UsockServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor


class Overlay:
    """The links of one broker to its neighbours. ``on_change`` callbacks get a child whose status has changed.

    ``on_congestion`` callbacks get True when the parent reads less than it is sent, so that nobody should send it
    more, and False when it has caught up. Our own children are paused meanwhile, so messages on their way to rank 0
    fill no broker's memory. Downwards nobody waits: a child that is stopped must not block its siblings.
    """

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        log: BrokerLog,
        *,
        admits_children: Callable[[], bool],
        parent_lost: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._clock = reactor.clock
        self._router = router
        self._attributes = attributes
        self._log = log
        self._admits_children = admits_children
        self._parent_lost = parent_lost
        now = self._clock.monotonic()
        self.children = {rank: Child(rank, now) for rank in router.topology.children(router.rank)}
        self.parent: ParentLink | None = None
        self.status = PARTIAL if self.children else FULL
        self.since = now
        self.on_change: list[Callable[[Child], None]] = []
        self.on_congestion: list[Callable[[bool], None]] = []
        self.tracers: Tracers = []
        self.secret: str | None = None
        self._written_secret: tuple[str, str] | None = None
        self._server: UsockServer | None = None
        self._ranks: dict[str, int] = {}
        self._parted: Callable[[], None] | None = None

    def bind(self, uri: str, *, writes_secret: bool = False) -> None:
        """Listen for children at an ``ipc://`` URI. OSError if the socket cannot be bound.

        ``writes_secret`` makes a secret for these children and writes it beside the socket.
        """
        if writes_secret:
            path = secret_path(uri.removeprefix(IPC))
            self._written_secret = path, write_secret(path)
        self._server = UsockServer(
            self._reactor,
            uri.removeprefix(IPC),
            self._receive,
            self._disconnected,
            limit=UNREAD_OF_PEER,
            spool=self._attributes.get("rundir"),
            waits=True,
        )
        self.log(LOG_DEBUG, f"listening on {uri}")

    # -- the parent

    def connect(self, endpoint: str, connected: Callable[[], None]) -> None:
        """Connect to the parent, then call ``connected``. Tries until tbon.connect_timeout has passed."""
        rank = self._router.parent
        assert rank is not None

        def accepted() -> None:
            assert self.parent is not None
            assert self.parent.peer is not None
            self._link(self.parent.peer)
            connected()

        self.parent = ParentLink(
            self,
            self._reactor,
            self._router,
            self._attributes,
            rank,
            endpoint,
            self.secret,
            accepted,
            self.lose_parent,
        )

    def lose_parent(self) -> None:
        """The parent is lost or cannot be reached: this broker must end."""
        link, self.parent = self.parent, None
        if link is None:
            return
        link.close()
        if link.peer is not None:
            self._unlink(link.peer, "overlay disconnect")
        if self._parted is not None:
            self._parted()
        else:
            self._parent_lost()

    def part(self, parted: Callable[[], None]) -> None:
        """Say goodbye to the parent, then call ``parted``."""
        if self.parent is None or self.parent.peer is None:
            self._reactor.call_soon(parted)
        else:
            self._parted = parted
            self.parent.part()

    def congest(self, congested: bool) -> None:
        """The parent stops reading, or reads again."""
        for child in self.children.values():
            if child.connection is not None:
                child.connection.pause(congested)
        for changed in self.on_congestion:
            changed(congested)

    # -- from children

    def _receive(self, connection: Connection, message: Message) -> None:
        message.rolemask &= ~ROLE_LOCAL
        rank = self._ranks.get(connection.uuid)
        if rank is None:
            self._admit(connection, message)
            return
        child, router = self.children[rank], self._router
        assert child.peer is not None
        child.heard_at = self._reactor.monotonic()
        for trace in self.tracers:
            trace("rx", rank, message)
        if message.type == REQUEST and message.routes is not None:
            if message.topic == "overlay.goodbye":
                self._take_leave(child, message)
            else:
                message.routes.append(child.peer.uuid)
                router.request(message)
        elif message.type == RESPONSE:
            child.peer.settle(message)
            router.respond(message)
        elif message.type == EVENT:
            router.send_event(message)
        elif message.type == CONTROL and message.aux1 == STATUS_CHANGE:
            self.set_status(child, message.aux2 if 0 <= message.aux2 < len(STATUS) else UNKNOWN)

    def _take_leave(self, child: Child, message: Message) -> None:
        assert child.connection is not None
        response = message.response()
        response.rolemask = ROLE_OWNER
        child.connection.send(response)
        self.drop(child, OFFLINE, "administrative shutdown")

    def _admit(self, connection: Connection, message: Message) -> None:
        if message.topic != "overlay.hello" or not self._admits_children():
            self._send_away(connection)
            return
        try:
            secret = self._written_secret[1] if self._written_secret is not None else self.secret
            child, uuid, status = check_hello(message.json(), self.children, self._router.rank, self._version, secret)
        except (ProtocolError, KeyError, TypeError, ValueError):
            connection.send(message.response(None, errno.EPROTO))
            return
        except FluxError as error:
            text = error.text or ""
            self.log(LOG_ERR, f"rejecting connection: {text}")
            connection.send(message.response(encode_text(text), error.errnum))
            return
        host = f"{self._attributes.host_of(child.rank)} (rank {child.rank})"
        severity = LOG_DEBUG
        if child.is_online:
            self.log(LOG_ERR, f"{host} reconnected after crash, dropping old connection state")
            self.drop(child, LOST)
            severity = LOG_ERR
        self._ranks[connection.uuid] = child.rank
        child.connection, child.peer = (
            connection,
            Peer(child.rank, uuid, connection.send, self.tracers, self._reactor.monotonic),
        )
        child.heard_at = self._reactor.monotonic()
        self._link(child.peer)
        self.set_status(child, status)
        self.log(severity, f"accepting connection from {host} status {STATUS[status]}")
        response = message.response(encode_json({"uuid": self._router.uuid}))
        response.rolemask = ROLE_OWNER
        connection.send(response)

    @property
    def _version(self) -> str:
        return self._attributes.get("version") or ""

    def _send_away(self, connection: Connection) -> None:
        connection.send(Message(CONTROL, aux1=DISCONNECT, userid=os.getuid(), rolemask=ROLE_OWNER))
        connection.close()

    def _disconnected(self, connection: Connection) -> None:
        rank = self._ranks.get(connection.uuid)
        if rank is not None and self.children[rank].connection is connection:
            self.log_lost(self.children[rank], "failed")
            self.drop(self.children[rank], LOST, "lost connection")

    def log_lost(self, child: Child, why: str) -> None:
        """Log that a child and its subtree are lost."""
        count = self._router.topology.descendant_count(child.rank)
        also = f" and severed contact with {count} other nodes" if count else ""
        self.log(LOG_ERR, f"{self._attributes.host_of(child.rank)} (rank {child.rank}) {why}{also}")

    def disconnect(self, child: Child) -> None:
        """Cut a child off, by request."""
        if child.connection is not None:
            child.connection.send(Message(CONTROL, aux1=DISCONNECT, userid=os.getuid(), rolemask=ROLE_OWNER))
        self.log_lost(child, "disconnected by request")
        self.drop(child, LOST, "administrative disconnect")

    def drop(self, child: Child, status: int, reason: str = "") -> None:
        """Forget the link to a child; its subtree now has ``status``."""
        connection, peer, child.connection, child.peer = child.connection, child.peer, None, None
        if connection is not None:
            self._ranks.pop(connection.uuid, None)
            connection.close()
        if peer is not None:
            self._unlink(peer)
        child.error, child.is_torpid = reason, False
        self.set_status(child, status)

    # -- routes

    def _link(self, peer: Peer) -> None:
        self._router.peers[peer.rank] = peer.send
        self._router.routes[peer.uuid] = peer.send

    def _unlink(self, peer: Peer, reason: str | None = None) -> None:
        router = self._router
        router.peers.pop(peer.rank, None)
        router.routes.pop(peer.uuid, None)
        for request in peer.abandon():
            router.refuse(request, errno.EHOSTUNREACH, reason)

    # -- status

    def set_status(self, child: Child, status: int) -> None:
        """Take over a child's status; report to the parent if that changes ours."""
        if child.status == status:
            return
        child.status, child.since = status, self._clock.monotonic()
        mine = subtree_status(list(self.children.values()))
        if mine != self.status:
            self.status, self.since = mine, self._clock.monotonic()
            if self.parent is not None:
                self.parent.tell_status(mine)
        for changed in list(self.on_change):
            changed(child)

    @property
    def online(self) -> list[int]:
        """The ranks of the children that are online."""
        return [rank for rank, child in self.children.items() if child.is_online]

    @property
    def is_childless(self) -> bool:
        """Whether no child subtree is online."""
        return not self.online

    def close(self) -> None:
        """Drop all links and the socket."""
        if self.parent is not None:
            self.parent.close()
        if self._server is not None:
            self._ranks.clear()
            self._server.close()
        if self._written_secret is not None:
            remove_secret(self._written_secret[0])
            self._written_secret = None

    def log(self, severity: int, text: str) -> None:
        """Log in the name of the overlay."""
        self._log.write(severity, text, "overlay")
