"""Messages on a byte stream (RFC 3, "Message Framing and Security"), as flux-core frames them.

The RFC lists the magic as FF EE 00 12 and includes the header in the length. flux-core writes the magic in the byte
order of the host, and the length is that of the encoded message alone. This follows flux-core: peers share a host.
"""

from __future__ import annotations

import struct

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.message import Message, decode_message

MAX_MESSAGE = 256 * 1024 * 1024
"""The longest message that a decoder accepts, in bytes. flux-core has no limit; a hostile length must meet one."""

_MAGIC = struct.pack("=I", 0xFFEE0012)
_HEADER = 8
_LARGE = 1 << 16


def encode_frame(message: Message) -> bytes:
    """The message with its stream header."""
    pieces = message.pieces()
    return b"".join([_MAGIC, sum(map(len, pieces)).to_bytes(4, "big"), *pieces])


class FrameDecoder:
    """Decodes messages from bytes that come in pieces of any size. After a ProtocolError the stream is unusable."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._buffer = bytearray()
        self._limit = limit

    @property
    def pending(self) -> int:
        """Bytes of a message that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """Messages completed by ``data``. Raises ProtocolError: wrong magic, too long, broken message."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start, end = 0, len(buffer)
        while end - start >= _HEADER:
            if buffer[start : start + 4] != _MAGIC:
                raise ProtocolError("stream magic is wrong", bytes(buffer[start : start + 4]).hex())
            size = int.from_bytes(buffer[start + 4 : start + _HEADER], "big")
            if size > self._limit:
                raise ProtocolError(f"message of {size} bytes is over the limit of {self._limit}")
            if end - start < _HEADER + size:
                break
            body = start + _HEADER
            if size < _LARGE:
                messages.append(decode_message(bytes(buffer[body : body + size])))
            else:
                # Not copied as a whole, only part by part.
                with memoryview(buffer) as view, view[body : body + size] as large:
                    messages.append(decode_message(large))
            start += _HEADER + size
        if start:
            del buffer[:start]
        if len(buffer) >= 4 and not _MAGIC.startswith(bytes(buffer[:4])):
            raise ProtocolError("stream magic is wrong", bytes(buffer[:4]).hex())
        return messages
