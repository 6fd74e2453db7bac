"""A connected socket with a buffer towards the peer."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pytest_flux.reactor.reactor import Reactor

MAX_UNSENT = 64 * 1024 * 1024
"""What a peer may leave unread, in bytes, before it is cut off: it must not make us grow."""

_CHUNK = 65536
_MAX_WRITE = 1 << 20
_MAX_REST = 1 << 20


class Stream:
    """Calls ``on_data`` with bytes as they come and ``on_close`` once, when the peer is gone or cut off.

    ``on_close`` is not called for a ``close`` of our own.
    """

    __slots__ = (
        "_closing",
        "_drained",
        "_limit",
        "_lost",
        "_low",
        "_on_close",
        "_on_data",
        "_reactor",
        "_socket",
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
    ) -> None:
        sock.setblocking(False)
        self._reactor = reactor
        self._socket: socket.socket | None = sock
        self._on_data = on_data
        self._on_close = on_close
        self._unsent = bytearray()
        self._limit = limit
        self._closing = False
        self._lost = False
        self._low = 0
        self._drained: Callable[[], None] | None = None
        reactor.on_readable(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        """Whether the socket is ours still."""
        return self._socket is not None

    @property
    def unsent(self) -> int:
        """How many bytes the peer has not taken yet."""
        return len(self._unsent)

    def when_below(self, size: int, drained: Callable[[], None]) -> None:
        """Call ``drained`` once, as soon as the peer has left no more than ``size`` bytes; now there are more."""
        self._low, self._drained = size, drained

    def pause(self, paused: bool) -> None:
        """Read nothing for now, or again: the peer, which is alive, has to wait."""
        if self._socket is not None and not self._closing:
            self._reactor.on_readable(self._socket.fileno(), None if paused else self._readable)

    def write(self, data: bytes) -> None:
        """Send now what goes, the rest when the peer takes it. Dropped silently after the end."""
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
        if len(self._unsent) > self._limit:
            # Looked at before, not after: one message may be larger than that.
            self._give_up()
            return
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
        self._unsent.clear()

    def read_rest(self) -> None:
        """Take at once what the peer has sent before it ended: on_data, and on_close at the end of it."""
        for _ in range(_MAX_REST // _CHUNK):
            # Another process may hold the peer's socket, and keep on writing.
            if self._socket is None or not self._read():
                return

    def broken(self) -> None:
        """Lose the peer: a callback for what it sent has failed (see pytest_flux.reactor.reactor)."""
        self._lose()

    def _give_up(self) -> None:
        """Lose the peer, but not within its ``write``. Nothing may follow what it has got, perhaps half a message."""
        assert self._socket is not None
        self._lost = True
        self._unsent.clear()
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
        if self._drained is not None and len(self._unsent) <= self._low:
            drained, self._drained = self._drained, None
            drained()
            if self._socket is None:
                return
        if not self._unsent:
            self._reactor.on_writable(self._socket.fileno(), None)
            if self._closing:
                self.close()
