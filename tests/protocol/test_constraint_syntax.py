"""Constraints as users write them (RFC 35)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.constraint import validate_constraint
from pytest_flux.protocol.constraint_syntax import parse_constraint
from pytest_flux.protocol.errors import ProtocolError

A, B, C = ({"properties": [name]} for name in "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", A),
        ("a,b", {"properties": ["a", "b"]}),
        ("a b&c && d and e", {"properties": ["a", "b", "c", "d", "e"]}),
        ("-a", {"not": [A]}),
        ("not (a|b) c", {"and": [{"not": [{"or": [A, B]}]}, C]}),
        ("a|b or c", {"or": [A, B, C]}),
        ("a b|c", {"or": [{"properties": ["a", "b"]}, C]}),
        ("host:n[0-3] rank:1", {"and": [{"hostlist": ["n[0-3]"]}, {"ranks": ["1"]}]}),
        ("'x y' host:'a b'", {"and": [{"properties": ["x y"]}, {"hostlist": ["a b"]}]}),
        ("other:x", {"other": ["x"]}),
    ],
)
def test_constraints(text: str, expected: dict[str, Any]) -> None:
    assert parse_constraint(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Unexpected end of input in ''"),
        ("foo(", "Unclosed parenthesis in position 3"),
        ("a:", "Missing argument to token 'a:'"),
        ("-(a)", r"Invalid token '\(' at position 1|Invalid token '-' at position 0"),
        ("a)", r"Invalid token '\)' at position 1"),
        ("'a", "Unclosed quote"),
        ("a|", "Unexpected end of input"),
        ("(" * 200, "more than 100 parentheses"),
        ("a!b:c", "invalid character '!'"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        parse_constraint(text)


@given(st.text(alphabet="ab:,-|&()' \"not", max_size=40))
def test_hostile_text(text: str) -> None:
    try:
        constraint = parse_constraint(text)
    except ProtocolError:
        return
    # Operators may be anything; otherwise it is a constraint.
    with suppress(ProtocolError):
        validate_constraint(constraint)
