"""Messages on a stream: in any slicing, and what ends a stream."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import Message
from tests.protocol.test_message import fields, messages

MAGIC = struct.pack("=I", 0xFFEE0012)


@given(st.lists(messages, max_size=4), st.data())
def test_any_slicing(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = FrameDecoder()
    received: list[Message] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert list(map(fields, received)) == list(map(fields, sent))


@given(messages)
def test_byte_at_a_time(message: Message) -> None:
    decoder = FrameDecoder()
    *early, last = [decoder.feed(bytes([byte])) for byte in encode_frame(message)]
    assert not any(early)
    assert list(map(fields, last)) == [fields(message)]


def test_length_is_that_of_the_message_alone() -> None:
    message = Message(1, "a.b")
    assert encode_frame(message) == MAGIC + len(message.encode()).to_bytes(4, "big") + message.encode()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET /", "stream magic is wrong: 47455420"),
        (MAGIC + b"\xff\xff\xff\xff", "message of 4294967295 bytes is over the limit of 1000"),
        (MAGIC + (1001).to_bytes(4, "big"), "message of 1001 bytes is over the limit of 1000"),
        (MAGIC + bytes(4), "does not end in a proto part"),
        (MAGIC + (2).to_bytes(4, "big") + b"\x05a", "runs past the end"),
    ],
)
def test_errors_come_as_soon_as_they_show(data: bytes, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        FrameDecoder(limit=1000).feed(data)
    decoder = FrameDecoder(limit=1000)
    assert decoder.feed(encode_frame(Message(1, "a.b")))
    with pytest.raises(ProtocolError, match=error):
        list(map(decoder.feed, (bytes([byte]) for byte in data)))
