"""Messages (RFC 3): there and back, bytes that real brokers have sent, and what is no message."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.message import (
    CONTROL,
    EVENT,
    FLAG_NORESPONSE,
    FLAG_PAYLOAD,
    FLAG_PRIVATE,
    FLAG_ROUTE,
    FLAG_STREAMING,
    FLAG_TOPIC,
    FLAG_UPSTREAM,
    FLAG_USER1,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_LOCAL,
    ROLE_OWNER,
    Message,
    decode_message,
    encode_json,
)

words = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
flags = st.sampled_from([0, FLAG_NORESPONSE, FLAG_STREAMING, FLAG_UPSTREAM | FLAG_USER1, FLAG_PRIVATE])
messages = st.builds(
    Message,
    st.sampled_from([REQUEST, RESPONSE, EVENT, CONTROL]),
    st.none() | texts,
    st.none() | st.binary(max_size=600),
    flags=flags,
    userid=words,
    rolemask=words,
    aux1=words,
    aux2=words,
    routes=st.none() | st.lists(texts.filter(bool), max_size=5),
)


def proto(kind: int = REQUEST, flags: int = 0, magic: int = 0x8E, version: int = 1) -> bytes:
    """The proto part, with its size before it."""
    return b"\x14" + struct.pack(">BBBBIIII", magic, version, kind, flags, 0, 0, 0, 0)


def fields(message: Message) -> list[object]:
    return [getattr(message, name) for name in Message.__slots__]


@given(messages)
def test_what_is_encoded_comes_back(message: Message) -> None:
    assert fields(decode_message(message.encode())) == fields(message)


@given(messages, st.data())
def test_what_is_cut_short_or_followed_is_no_message(message: Message, data: st.DataObject) -> None:
    encoded = message.encode()
    for broken in (encoded[: data.draw(st.integers(0, len(encoded) - 1))], encoded + b"\0"):
        with pytest.raises(ProtocolError):
            decode_message(broken)


@given(st.binary(max_size=200))
def test_garbage_is_one_kind_of_error(data: bytes) -> None:
    try:
        decode_message(data + proto(flags=data[0] if data else 0))
    except ProtocolError:
        return


def test_parts_are_in_the_order_of_flux_core() -> None:
    message = Message(
        REQUEST, "a.b", b"{}\0", userid=1, rolemask=2, aux1=NODEID_ANY, aux2=3, routes=["first", "second"]
    )
    head = b"\x06second\x05first\x00\x03a.b\x03{}\0"
    flags = FLAG_ROUTE | FLAG_TOPIC | FLAG_PAYLOAD
    tail = struct.pack(">BBBBIIII", 0x8E, 1, REQUEST, flags, 1, 2, NODEID_ANY, 3)
    assert message.encode() == head + b"\x14" + tail


@pytest.mark.parametrize("size", [254, 255, 256, 70_000])
def test_long_parts_have_a_long_size(size: int) -> None:
    encoded = Message(EVENT, None, bytes(size)).encode()
    assert len(encoded) == (1 if size < 255 else 5) + size + 21
    assert decode_message(encoded).payload == bytes(size)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "does not end in a proto part"),
        (b"\xff\0\0", "size is cut short: byte 1"),
        (b"\x05abc", "part of 5 bytes runs past the end: byte 1"),
        (proto(magic=0), "magic 0x0 version 1 is not a Flux message"),
        (proto(version=2), "magic 0x8e version 2 is not a Flux message"),
        (proto(kind=3), "unknown message type 3"),
        (proto(flags=FLAG_NORESPONSE | FLAG_STREAMING), "both streaming and without response"),
        (proto(flags=FLAG_TOPIC), "lacks a part that its flags promise"),
        (b"\x01a" + proto(flags=FLAG_TOPIC | FLAG_PAYLOAD), "lacks a part that its flags promise"),
        (b"\x01a" + proto(flags=FLAG_ROUTE), "routes without delimiter"),
        (b"\x01\xff" + proto(flags=FLAG_TOPIC), "topic or route is not UTF-8"),
        (b"\x01\xff\x00" + proto(flags=FLAG_ROUTE), "topic or route is not UTF-8"),
        (b"\0" * 2**16 + proto(), "message of more than 65536 parts"),
    ],
)
def test_errors(data: bytes, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        decode_message(data)


def test_response_goes_back_the_way_the_request_came() -> None:
    request = Message(
        REQUEST, "a.b", b"x", flags=FLAG_STREAMING, userid=7, rolemask=1, aux1=5, aux2=9, routes=["one", "two"]
    )
    response = request.response(b"y", 2)
    assert (response.type, response.topic, response.payload, response.errnum) == (RESPONSE, "a.b", b"y", 2)
    assert (response.matchtag, response.is_streaming, response.routes) == (9, True, ["one", "two"])
    assert response.routes is not None
    response.routes.pop()
    assert request.routes == ["one", "two"]
    assert Message(REQUEST, "a.b").response().routes == []


def test_copies_have_routes_of_their_own() -> None:
    message = Message(EVENT, "a", b"x", flags=FLAG_PRIVATE, userid=1, rolemask=ROLE_OWNER, aux1=3, routes=["r"])
    copy = message.copy()
    assert fields(copy) == fields(message)
    assert copy.routes is not None
    copy.routes.append("s")
    copy.rolemask |= ROLE_LOCAL
    assert (message.routes, message.rolemask) == (["r"], ROLE_OWNER)


def test_json_is_compact_and_ends_in_nul() -> None:
    assert encode_json({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode() + b"\0"
    assert Message(REQUEST, "a", encode_json({"a": 1})).json() == {"a": 1}


@pytest.mark.parametrize("payload", [None, b"", b"\0", b"[1]\0", b"1", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object(payload: bytes | None) -> None:
    with pytest.raises(ProtocolError, match=r"JSON.*: a\.b"):
        Message(REQUEST, "a.b", payload).json()
