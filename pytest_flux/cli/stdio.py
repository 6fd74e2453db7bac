"""Read stdin and write stdout as bytes."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.reactor.reactor import Reactor

MAX_READ = 1 << 20
"""How much is read at once at the most, in bytes."""

_STDIN = 0


class Stdin:
    """Reads stdin as far as it is allowed to. Calls ``on_data`` with bytes, and with none at the end."""

    def __init__(self, reactor: Reactor, on_data: Callable[[bytes], None]) -> None:
        self._reactor = reactor
        self._on_data = on_data
        self._room = 0
        self._ended = False
        self._watched = False
        # epoll refuses regular files, which are always readable.
        self._always_ready = False

    def allow(self, room: int) -> None:
        """Read up to ``room`` bytes from now on; 0 pauses."""
        self._room = 0 if self._ended else room
        if self._always_ready:
            if self._room:
                self._reactor.call_soon(self._read)
            return
        if bool(self._room) == self._watched:
            return
        self._watched = bool(self._room)
        try:
            self._reactor.on_readable(_STDIN, self._read if self._watched else None)
        except PermissionError:
            self._always_ready = True
            self._reactor.call_soon(self._read)
        except OSError:
            self._end()

    def _read(self) -> None:
        if not self._room:
            return
        try:
            data = os.read(_STDIN, min(self._room, MAX_READ))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._room -= len(data)
            self._on_data(data)
        else:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self.allow(0)
            self._ended = True
            self._on_data(b"")


def encode(text: str) -> bytes:
    """Return the bytes of a word of the command line, or of a key."""
    return text.encode("utf-8", "surrogateescape")


def write(data: bytes) -> None:
    """Write bytes to stdout, and flush them."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class _LastingOutput(io.FileIO):
    """A descriptor whose reader may leave: what nobody reads any more is dropped."""

    def write(self, data: Any, /) -> int:  # noqa: ANN401, any buffer
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def outlive_readers() -> None:
    """Let stdout and stderr drop what nobody reads, instead of ending the program.

    In Flux, commands that wait for work (run, submit, alloc, exec) go on after their reader has left, as in
    ``flux run ... | head -1``, and their exit code is that of the work. Other commands end by SIGPIPE.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            is_ours = stream.fileno() == number
        except OSError:
            is_ours = False
        if is_ours:
            stream.flush()
            raw = _LastingOutput(number, "w", closefd=False)
            lasting = io.TextIOWrapper(
                # As Python does with PYTHONUNBUFFERED.
                raw if stream.write_through else io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)
