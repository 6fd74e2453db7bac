"""The server side of Flux's local connector: a listening UNIX socket that speaks RFC 3 frames.

Used by the `start` service of the launcher and by the local socket of the embedded broker.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from operator import itemgetter

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.limits import UNFINISHED_OF_CLIENTS, UNREAD_IN_MEMORY, UNREAD_OF_CLIENTS
from pytest_flux.protocol.message import ROLE_LOCAL, ROLE_NONE, ROLE_OWNER, USERID_UNKNOWN, Message
from pytest_flux.protocol.uuid import random_uuid
from pytest_flux.reactor.listener import listen
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import MAX_UNSENT, Stream

# A peer that leaves more unread is not read from for a while.
_HIGH, _LOW = 8 << 20, 1 << 20
# Bytes of an unfinished message from which on the sum of all is looked at.
_MUCH = 1 << 20


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """User id and process id (0 if the system does not know it) of the peer of a connected UNIX socket."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return uid, pid
    # macOS and the BSDs: struct xucred {u_int version; uid_t uid; ...}, level SOL_LOCAL = 0, LOCAL_PEERCRED = 1.
    _, uid = struct.unpack("=II", sock.getsockopt(0, 1, 76)[:8])
    return uid, 0


def owner_only(uid: int) -> int:
    """The rule of a single-user instance: role bits for the user we run as, none for all others."""
    return ROLE_OWNER if uid == os.getuid() else ROLE_NONE


class Connection:
    """One client. ``uuid`` is its route; ``userid`` and ``rolemask`` come from the kernel."""

    __slots__ = (
        "_decoder",
        "_inbox",
        "_is_behind",
        "_is_paused",
        "_server",
        "_stream",
        "pid",
        "rolemask",
        "userid",
        "uuid",
    )

    def __init__(self, server: UsockServer, sock: socket.socket, userid: int, rolemask: int, pid: int) -> None:
        self.uuid = random_uuid()
        self.userid = userid
        self.rolemask = rolemask
        self.pid = pid
        self._server = server
        self._decoder = FrameDecoder()
        self._inbox: deque[Message] = deque()
        self._is_paused = self._is_behind = False
        self._stream = Stream(server.reactor, sock, self._receive, self.close, limit=server.limit, spool=server.spool)

    def send(self, message: Message) -> None:
        """Send a message as it is."""
        self._stream.write(encode_frame(message))
        if self._stream.unsent > UNREAD_IN_MEMORY:
            self._server.check_unread()

    @property
    def unsent(self) -> int:
        """How many bytes the client has not taken yet."""
        return self._stream.unsent

    def when_below(self, size: int, drained: Callable[[], None]) -> None:
        """See Stream."""
        self._stream.when_below(size, drained)

    @property
    def unfinished(self) -> int:
        """Bytes of a message that is not complete yet."""
        return self._decoder.pending

    def pause(self, paused: bool) -> None:
        """See Stream."""
        self._is_paused = paused
        self._stream.pause(self._is_paused or self._is_behind)

    def close(self) -> None:
        """Drop the client."""
        self._stream.close()
        # At once: this object and its stream refer to each other, so they may stay until the next garbage collection.
        self._decoder = FrameDecoder()
        self._inbox.clear()
        self._server.forget(self)

    def cut_off(self) -> None:
        """Drop the client, but not within a callback for it."""
        self._server.reactor.call_soon(self.close)

    def _receive(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except ProtocolError:
            self.close()
            return
        self._inbox += messages
        self._work()
        if self._decoder.pending > _MUCH:
            self._server.check_unfinished()

    def _work(self) -> None:
        """Handle what has come. A small request may have a large answer, so a peer that is behind gets them slowly.

        A neighbour always reads, so it can wait until it has read its answers. A client may write all its requests
        before it reads: it must not wait for that, but the others get their turn between its requests.
        """
        while self._inbox and self._stream.is_open and not self._is_behind:
            is_much = self._stream.unsent > _HIGH
            if is_much and self._server.waits:
                self._fall_behind()
                self._stream.when_below(_LOW, self.catch_up)
                return
            message = self._inbox.popleft()
            self._stamp(message)
            self._server.on_message(self, message)
            if is_much and self._inbox:
                self._fall_behind()
                self._server.queue(self)

    def _fall_behind(self) -> None:
        self._is_behind = True
        self._stream.pause(True)

    def catch_up(self) -> None:
        """Go on with what has come."""
        self._is_behind = False
        self._stream.pause(self._is_paused)
        self._work()

    def _stamp(self, message: Message) -> None:
        # An owner may act for others, as proxies do. A guest may not say who it is.
        owner = self.rolemask & ROLE_OWNER
        if not owner or message.userid == USERID_UNKNOWN:
            message.userid = self.userid
        if not owner or message.rolemask == ROLE_NONE:
            message.rolemask = self.rolemask


class UsockServer:
    """Listens on ``path`` from the start; ``on_disconnect`` is called once for every accepted client.

    ``on_connect``, if given, is called when it is accepted. ``authorize`` maps a user id to role bits, none refusing
    it with EPERM. ``listener`` is what listens at ``path`` already. ``limit`` and ``spool`` are those of the clients'
    streams; ``waits`` says that clients always read, so that each can wait for its answers.
    Raises OSError if the socket cannot be bound.
    """

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        on_message: Callable[[Connection, Message], None],
        on_disconnect: Callable[[Connection], None],
        authorize: Callable[[int], int] = owner_only,
        *,
        on_connect: Callable[[Connection], None] | None = None,
        listener: socket.socket | None = None,
        limit: int = MAX_UNSENT,
        spool: str | None = None,
        waits: bool = False,
    ) -> None:
        self.reactor = reactor
        self.waits = waits
        self.limit = limit
        self.spool = spool
        self.path = path
        self.on_message = on_message
        self.on_disconnect = on_disconnect
        self._on_connect = on_connect
        self.connections: dict[str, Connection] = {}
        self._behind: deque[Connection] = deque()
        self._authorize = authorize
        self._listener = listen(path) if listener is None else listener
        reactor.on_readable(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Drop every client and remove the socket."""
        for connection in list(self.connections.values()):
            connection.close()
        if self._listener.fileno() >= 0:
            self.reactor.on_readable(self._listener.fileno(), None)
            self._listener.close()
            try:
                os.unlink(self.path)
            except OSError:
                pass

    def forget(self, connection: Connection) -> None:
        """A client is gone: call ``on_disconnect``, once."""
        if self.connections.pop(connection.uuid, None) is not None:
            self.on_disconnect(connection)

    def queue(self, connection: Connection) -> None:
        """Let a client that is behind go on, one of them in each round."""
        self._behind.append(connection)
        if len(self._behind) == 1:
            self.reactor.call_soon(self._next)

    def _next(self) -> None:
        connection = self._behind.popleft()
        if self._behind:
            self.reactor.call_soon(self._next)
        connection.catch_up()

    def check_unread(self) -> None:
        """Cut off the client that leaves most unread if all together leave too much."""
        if self.waits:
            return
        unread = [(connection.unsent, connection) for connection in self.connections.values()]
        if sum(size for size, _ in unread) > UNREAD_OF_CLIENTS:
            max(unread, key=itemgetter(0))[1].cut_off()

    def check_unfinished(self) -> None:
        """Cut off the client with the longest unfinished message if all together are too long."""
        unfinished = [(connection.unfinished, connection) for connection in self.connections.values()]
        if sum(size for size, _ in unfinished) > UNFINISHED_OF_CLIENTS:
            max(unfinished, key=itemgetter(0))[1].cut_off()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, or the peer has left: accept nobody for a moment, and serve those who are connected.
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.reactor.on_readable(self._listener.fileno(), None)
                self.reactor.call_later(0.1, self._resume)
            return
        try:
            userid, pid = peer_credentials(sock)
            rolemask = self._authorize(userid)
            if rolemask == ROLE_NONE:
                sock.send(bytes([errno.EPERM]))
                sock.close()
                return
            sock.send(b"\0")
        except OSError:
            sock.close()
            return
        connection = Connection(self, sock, userid, rolemask | ROLE_LOCAL, pid)
        self.connections[connection.uuid] = connection
        if self._on_connect is not None:
            try:
                self._on_connect(connection)
            except BaseException:
                connection.close()
                raise

    def broken(self) -> None:
        """Go on listening: one client could not be accepted (see pytest_flux.reactor.reactor)."""
        self._resume()

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self.reactor.on_readable(self._listener.fileno(), self._accept)
