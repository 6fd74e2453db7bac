"""Data of terminals: every byte arrives; what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.terminus import decode_data, encode_data


@given(st.binary())
def test_round_trip(data: bytes) -> None:
    message = json.loads(json.dumps(encode_data(data)))
    assert decode_data(message) == data
    assert "\0" not in message["data"]


def test_text_stays_text() -> None:
    assert encode_data("é\r\n".encode()) == {"type": "data", "data": "é\r\n"}
    # Clients of flux-core's send NUL as text.
    assert decode_data({"data": "\0"}) == b"\0"


@pytest.mark.parametrize(
    "message",
    [{}, {"data": 1}, {"data": "x", "encoding": "x"}, {"data": "é", "encoding": "base64"}, {"data": "\ud800"}],
)
def test_refusals(message: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_data(message)
