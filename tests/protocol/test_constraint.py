"""Constraints on nodes."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_flux.protocol.constraint import Node, compile_constraint, validate_constraint
from pytest_flux.protocol.errors import ProtocolError

NODES = [
    Node(0, "a0", frozenset(("ssd",))),
    Node(1, "a1", frozenset(("ssd", "gpu"))),
    Node(2, "b2", frozenset()),
    Node(3, "b3", frozenset(("gpu",))),
]


@pytest.mark.parametrize(
    ("constraint", "ranks"),
    [
        ({}, [0, 1, 2, 3]),
        ({"properties": ["ssd"]}, [0, 1]),
        ({"properties": ["^ssd"]}, [2, 3]),
        ({"properties": ["ssd", "^gpu"]}, [0]),
        ({"properties": ["b2"]}, [2]),
        ({"hostlist": ["a[0-1]", "b3"]}, [0, 1, 3]),
        ({"ranks": ["0,2-3"]}, [0, 2, 3]),
        ({"and": [{"properties": ["gpu"]}, {"ranks": ["0-1"]}]}, [1]),
        ({"or": [{"properties": ["gpu"]}, {"ranks": ["0"]}]}, [0, 1, 3]),
        ({"not": [{"properties": ["gpu"]}, {"ranks": ["0-1"]}]}, [0, 2, 3]),
        ({"and": []}, [0, 1, 2, 3]),
        ({"or": []}, [0, 1, 2, 3]),
        ({"not": []}, []),
        ({"properties": ["gpu"], "ranks": ["3"]}, [3]),
    ],
)
def test_which_nodes(constraint: dict[str, Any], ranks: list[int]) -> None:
    """RFC 31, operator by operator."""
    match = compile_constraint(constraint)
    assert [node.rank for node in NODES if match(node)] == ranks


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        ([], "constraints must be a mapping"),
        ({"foo": []}, "unknown constraint operator 'foo'"),
        ({"and": {}}, "argument to constraint and must be a sequence"),
        ({"and": [1]}, "constraints must be a mapping"),
        ({"properties": ["a&b"]}, "invalid character in property 'a&b'"),
        ({"properties": [1]}, "list of strings"),
        ({"ranks": ["x"]}, "error parsing range"),
        ({"hostlist": ["a["]}, "a"),
        ({"hostlist": ["nowhere"]}, "invalid hosts: host 'nowhere' not found"),
    ],
)
def test_what_is_refused(constraint: object, text: str) -> None:
    """In flux-core's words where it has some."""
    with pytest.raises(ProtocolError, match=text.replace("(", "\\(")):
        validate_constraint(constraint, frozenset(("a0",)))


def test_too_deep() -> None:
    """A bound, rather than the end of the stack."""
    constraint: dict[str, Any] = {"ranks": ["0"]}
    for _ in range(5000):
        constraint = {"not": [constraint]}
    with pytest.raises(ProtocolError, match="levels of a constraint: 33 exceeds the limit of 32"):
        validate_constraint(constraint)
