"""JSON is taken as jansson takes it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_value import compact, compact_ascii, decode_json
from pytest_flux.protocol.message import REQUEST, Message

NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.booleans())
def test_what_python_writes_is_read_back(value: object, strict: bool, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert decode_json(text, strict=strict) == decode_json(text.encode(), strict=strict) == value


@given(VALUES)
def test_compact_text_is_read_back(value: object) -> None:
    assert decode_json(compact(value)) == decode_json(compact_ascii(value)) == value
    assert compact_ascii(value).isascii()


def test_compact_text() -> None:
    value = {"b": [1, 2.5, None], "a": "ä b\udcff"}
    assert compact(value) == '{"b":[1,2.5,null],"a":"ä b\udcff"}'
    assert compact_ascii(value) == '{"b":[1,2.5,null],"a":"\\u00e4 b\\udcff"}'


@pytest.mark.parametrize(
    "text",
    ["NaN", "[-Infinity]", "1e999", "-1e999", str(1 << 63), str(-(1 << 63) - 1), "1" * 5000, "", "{", "[1,]", "1 2"],
)
def test_what_jansson_does_not_take(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_json(text)
    with pytest.raises(ProtocolError, match="payload is not JSON"):
        Message(REQUEST, "a.b", b'{"a":%b}' % text.encode()).json()


@pytest.mark.parametrize("text", [rb'"\ud800"', rb'{"\uDFFF":1}', b'"\xed\xa0\x80"', b'"\xff"'])
def test_text_that_is_not_unicode(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_json(text, strict=True)


def test_what_is_only_near_to_it() -> None:
    assert decode_json(rb'["\ud83d\ude00", "\\ud800"]', strict=True) == ["\U0001f600", "\\ud800"]
    assert decode_json(str((1 << 63) - 1)) == (1 << 63) - 1
    assert decode_json("-1e308") == -1e308
    assert math.copysign(1, decode_json("-0.0")) == -1
    assert decode_json(b'"\xed\xb3\xbf"') == "\udcff"
