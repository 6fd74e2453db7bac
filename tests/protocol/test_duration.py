"""Spans of time as text."""

from __future__ import annotations

from math import inf, isclose, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import ProtocolError

near_misses = st.lists(
    st.sampled_from(
        ["0", "1", "9", ".", "e", "p", "0x", "+", "-", " ", "inf", "inity", "nan", "ms", "s", "m", "h", "d"]
    )
).map("".join)
"""Strings that are durations, or nearly."""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # RFC 23, Test Vectors
        ("2ms", 0.002),
        ("0.1s", 0.1),
        ("30", 30),
        ("1.2h", 4320),
        ("5m", 300),
        ("0s", 0),
        ("5d", 432000),
        ("inf", inf),
        ("INF", inf),
        ("infinity", inf),
        # what else strtod() reads
        (".5m", 30),
        ("5.", 5),
        (" +1e3ms", 1),
        ("1E2", 100),
        ("0x10", 16),
        ("0X1.8p1m", 180),
        ("0x1d", 29),
        ("+Infinity", inf),
        ("1e999", inf),
        ("0x1p9999", inf),
        ("1e308d", inf),
        ("-0", 0),
        # flux-core's missing number
        ("", 0),
        ("s", 0),
        ("ms", 0),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    assert isclose(parse_duration(text), seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("-1", "-1.", "-inf", "-1ms", "nan", "NaNs"),
        *("infs", "infd", "infinites", "infinit", "1e999s"),
        *("1.0f", "1.0sec", "1S", "1M", "1 s", "1s ", "1\n", "5s\n", "s1", "\0", "1\0", "\xa01"),
        *("1_0", "\u0663", "1e", "1e+s", "0x", "0xm", "--1", "1.2.3", ".", ".s", "1,5"),
    ],
)
def test_refusals(text: str) -> None:
    with pytest.raises(ProtocolError, match="not a Flux Standard Duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0000123, "0.0123ms"),
        (0.001, "1ms"),
        (0.0999, "99.9ms"),
        (0.1, "0.1s"),
        (5.1, "5.1s"),
        (59.9999999, "60s"),
        (60, "1m"),
        (62, "1.03333m"),
        (3599, "59.9833m"),
        (3600, "1h"),
        (4500, "1.25h"),
        (86400, "1d"),
        (103680, "1.2d"),
        (1e12, "1.15741e+07d"),
        (inf, "infinity"),
    ],
)
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, -0.001, -inf, nan])
def test_what_is_no_duration_is_not_written(seconds: float) -> None:
    with pytest.raises(ProtocolError, match="not a duration"):
        format_duration(seconds)


@given(st.floats(0, 1e300) | st.just(inf))
def test_round_trip_keeps_six_digits(seconds: float) -> None:
    # below the smallest normal number, digits get lost on the way to milliseconds
    assert isclose(parse_duration(format_duration(seconds)), seconds, rel_tol=1e-5, abs_tol=1e-300)


@given(st.text() | near_misses)
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ProtocolError:
        return
    assert seconds >= 0
