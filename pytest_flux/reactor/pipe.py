"""Pipes on the reactor: one that we read, one that we write, and lines in what was read."""

from __future__ import annotations

import os
from collections.abc import Callable

from pytest_flux.reactor.reactor import Reactor

_CHUNK = 65536


class PipeReader:
    """Calls back with what comes out of a pipe, and once with b"" at its end."""

    __slots__ = ("_callback", "_fd", "_reactor")

    def __init__(self, reactor: Reactor, fd: int, callback: Callable[[bytes], None]) -> None:
        os.set_blocking(fd, False)
        self._reactor = reactor
        self._fd = fd
        self._callback = callback
        reactor.on_readable(fd, self._read)

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return self._fd >= 0

    def pause(self, paused: bool) -> None:
        """Read nothing for now, or read on: meanwhile the writer has to wait."""
        if self._fd >= 0:
            self._reactor.on_readable(self._fd, None if paused else self._read)

    def close(self) -> None:
        """Stop reading. Harmless when that is done."""
        if self._fd >= 0:
            self._reactor.on_readable(self._fd, None)
            os.close(self._fd)
            self._fd = -1

    def broken(self) -> None:
        """Report the end of the pipe: the callback has failed (see pytest_flux.reactor.reactor)."""
        if self._fd >= 0:
            self.close()
            self._callback(b"")

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        self._callback(data)


class PipeWriter:
    """A buffer towards a pipe. ``taken`` is called with a number of bytes each time the reader takes some."""

    __slots__ = ("_eof", "_fd", "_reactor", "_taken", "_unsent")

    def __init__(self, reactor: Reactor, fd: int, taken: Callable[[int], None] | None = None) -> None:
        os.set_blocking(fd, False)
        self._reactor = reactor
        self._fd = fd
        self._taken = taken
        self._unsent = bytearray()
        self._eof = False

    def write(self, data: bytes) -> None:
        """Send; after ``end``, or when the reader is gone, the data are dropped."""
        if self._fd >= 0 and not self._eof and data:
            self._unsent += data
            self._reactor.on_writable(self._fd, self._flush)

    def end(self) -> None:
        """Close when everything is sent."""
        self._eof = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        """Close now."""
        if self._fd >= 0:
            self._reactor.on_writable(self._fd, None)
            os.close(self._fd)
            self._fd = -1

    def broken(self) -> None:
        """Close: the callback has failed (see pytest_flux.reactor.reactor)."""
        self.close()

    def _flush(self) -> None:
        try:
            with memoryview(self._unsent) as view:
                sent = os.write(self._fd, view[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
            self.close()
        del self._unsent[:sent]
        if self._taken is not None and sent:
            self._taken(sent)
        if not self._unsent and self._fd >= 0:
            self._reactor.on_writable(self._fd, None)
            if self._eof:
                self.close()


class LineBuffer:
    """Cuts a stream into whole lines, with their newlines. A line longer than ``longest`` comes in pieces."""

    __slots__ = ("_longest", "_partial", "_size")

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._partial: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """What can be passed on once ``data`` has come. b"" is the end: the rest is passed on, whole line or not."""
        end = data.rfind(b"\n") + 1
        whole = []
        if end:
            whole = [line + b"\n" for line in b"".join((*self._partial, data[:end])).split(b"\n")[:-1]]
            self._partial, self._size, data = [], 0, data[end:]
        if data:
            self._partial.append(data)
            self._size += len(data)
        if self._partial and (self._size >= self._longest or not (data or end)):
            whole.append(b"".join(self._partial))
            self._partial, self._size = [], 0
        return whole
