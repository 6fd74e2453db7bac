"""Event logs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.eventlog import decode_event, decode_eventlog, encode_event, make_event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CONTEXTS = st.none() | st.dictionaries(st.text(max_size=5), JSON, max_size=3)


def test_a_recorded_line() -> None:
    """The members have their order, and nothing is between them."""
    line = '{"timestamp":1795345550.6342027,"name":"submit","context":{"userid":0,"urgency":16}}\n'
    assert encode_event(decode_event(line)) == line


@given(st.lists(st.tuples(st.text(max_size=10), CONTEXTS, st.floats(0, 2e9)), max_size=5))
def test_round_trip(parts: list[tuple[str, dict[str, Any] | None, float]]) -> None:
    """A log is its lines."""
    events = [make_event(name, context, timestamp=timestamp) for name, context, timestamp in parts]
    text = "".join(map(encode_event, events))
    assert text.count("\n") == len(events)
    assert decode_eventlog(text) == events


def test_a_line_that_is_not_finished_is_left_out() -> None:
    """Somebody is still writing it."""
    line = encode_event(make_event("a", timestamp=1.0))
    assert decode_eventlog(line + '{"timest') == [{"timestamp": 1.0, "name": "a"}]
    assert decode_eventlog("") == []


@pytest.mark.parametrize(
    "line",
    [
        "", "x", "[]", "1", '{"name":"a"}', '{"timestamp":"1","name":"a"}', '{"timestamp":true,"name":"a"}',
        '{"timestamp":1}', '{"timestamp":1,"name":2}', '{"timestamp":1,"name":"a","context":[]}', "[" * 100000,
    ],
)  # fmt: skip
def test_what_is_no_event(line: str) -> None:
    """Alone, and as second line of a log, whose number is told."""
    with pytest.raises(ProtocolError):
        decode_event(line)
    with pytest.raises(ProtocolError, match="line 2"):
        decode_eventlog(f'{{"timestamp":1,"name":"a"}}\n{line}\n')


def test_a_log_without_newline() -> None:
    """Is none."""
    with pytest.raises(ProtocolError):
        decode_eventlog('{"timestamp":1,"name":"a"}')
