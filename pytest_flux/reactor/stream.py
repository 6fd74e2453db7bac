"""A connected socket with a buffer towards the peer.

A peer may be slow, and what it is sent must wait somewhere. Some of it waits in memory, and the rest, if there is a
directory for it, in a file: then the peer can take its time. Beyond ``limit`` it is cut off.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from pytest_flux.protocol.limits import UNREAD_IN_MEMORY
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.spool import Spool

MAX_UNSENT = 64 * 1024 * 1024
"""Bytes that a peer may leave unread before it is cut off, if there is no file for them."""

_CHUNK = 65536
_MAX_WRITE = 1 << 20
_MAX_REST = 1 << 20


class Stream:
    """Calls ``on_data`` with bytes as they come and ``on_close`` once, when the peer is gone or cut off.

    ``on_close`` is not called for a ``close`` of our own. ``spool`` is the directory for what the peer does not read.
    """

    __slots__ = (
        "_closing",
        "_drained",
        "_limit",
        "_lost",
        "_on_close",
        "_on_data",
        "_reactor",
        "_socket",
        "_spool",
        "_unsent",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_data: Callable[[bytes], None],
        on_close: Callable[[], None],
        *,
        limit: int = MAX_UNSENT,
        spool: str | None = None,
    ) -> None:
        sock.setblocking(False)
        self._reactor = reactor
        self._socket: socket.socket | None = sock
        self._on_data = on_data
        self._on_close = on_close
        self._unsent = bytearray()
        self._spool = None if spool is None else Spool(spool)
        self._limit = limit
        self._closing = False
        self._lost = False
        self._drained: list[tuple[int, Callable[[], None]]] = []
        reactor.on_readable(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        """Whether the socket is still open."""
        return self._socket is not None

    @property
    def unsent(self) -> int:
        """How many bytes the peer has not taken yet."""
        return len(self._unsent) + (len(self._spool) if self._spool is not None else 0)

    def when_below(self, size: int, drained: Callable[[], None]) -> None:
        """Call ``drained`` once, as soon as the peer has left no more than ``size`` bytes; now there are more."""
        self._drained.append((size, drained))

    def pause(self, paused: bool) -> None:
        """Read nothing for now, or read on: meanwhile the peer has to wait."""
        if self._socket is not None and not self._closing:
            self._reactor.on_readable(self._socket.fileno(), None if paused else self._readable)

    def write(self, data: bytes) -> None:
        """Send what the peer takes now, and the rest later. Data for a closed stream are dropped."""
        if self._socket is None or self._closing or self._lost:
            return
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._give_up()
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._reactor.on_writable(self._socket.fileno(), self._flush)
        # Looked at before, not after: one message may be larger than the limits.
        if self.unsent > self._limit:
            self._give_up()
        elif self._spool is not None and (self._spool or len(self._unsent) > UNREAD_IN_MEMORY):
            try:
                self._spool.write(data)
            except OSError:
                self._give_up()
        else:
            self._unsent += data

    def close(self, *, flush: bool = False) -> None:
        """Close now, or, with ``flush``, when the peer has taken what was written."""
        if self._socket is None:
            return
        if flush and self._unsent:
            self._closing = True
            self._reactor.on_readable(self._socket.fileno(), None)
            return
        fd = self._socket.fileno()
        self._reactor.on_readable(fd, None)
        self._reactor.on_writable(fd, None)
        self._socket.close()
        self._socket = None
        self._forget()

    def _forget(self) -> None:
        self._unsent.clear()
        if self._spool is not None:
            self._spool.close()

    def read_rest(self) -> None:
        """Read now what the peer has sent before it ended: call on_data, and on_close at the end."""
        for _ in range(_MAX_REST // _CHUNK):
            # Another process may hold the peer's socket, and keep on writing.
            if self._socket is None or not self._read():
                return

    def broken(self) -> None:
        """Lose the peer: a callback for what it sent has failed (see pytest_flux.reactor.reactor)."""
        self._lose()

    def _call_drained(self) -> None:
        unsent = self.unsent
        ready = [drained for size, drained in self._drained if unsent <= size]
        if ready:
            self._drained = [each for each in self._drained if unsent > each[0]]
            for drained in ready:
                drained()

    def _give_up(self) -> None:
        """Cut the peer off, but not within ``write``. It may have got half a message, so nothing may follow."""
        assert self._socket is not None
        self._lost = True
        self._forget()
        self._reactor.on_writable(self._socket.fileno(), None)
        self._reactor.call_soon(self._lose)

    def _lose(self) -> None:
        if self._socket is not None:
            closing = self._closing
            self.close()
            if not closing:
                self._on_close()

    def _readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Whether there was something to read."""
        assert self._socket is not None
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self._lose()
        return bool(data)

    def _flush(self) -> None:
        assert self._socket is not None
        try:
            with memoryview(self._unsent) as view:
                sent = self._socket.send(view[:_MAX_WRITE])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose()
            return
        del self._unsent[:sent]
        if self._spool and len(self._unsent) < _MAX_WRITE:
            try:
                self._unsent += self._spool.read(_MAX_WRITE)
            except OSError:
                self._lose()
                return
        if self._drained:
            self._call_drained()
            if self._socket is None:
                return
        if not self._unsent:
            self._reactor.on_writable(self._socket.fileno(), None)
            if self._closing:
                self.close()
