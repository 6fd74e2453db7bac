"""Sets of ids as text."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import MAX_ID, decode_idset, decode_ranges, encode_idset, encode_ranges

ids = st.sets(st.integers(0, 40) | st.integers(0, MAX_ID))

near_misses = st.text("0123456789,-[] x", max_size=20)
"""Strings that are idsets, or nearly."""


@pytest.mark.parametrize(
    ("text", "expected", "canonical"),
    [
        ("", [], ""),
        ("[]", [], ""),
        ("0", [0], "0"),
        # RFC 22, Implementation
        ("1,2,3,5,6,42", [1, 2, 3, 5, 6, 42], "1-3,5-6,42"),
        ("1-3,5-6,42", [1, 2, 3, 5, 6, 42], "1-3,5-6,42"),
        ("[1-3,5-6,42]", [1, 2, 3, 5, 6, 42], "1-3,5-6,42"),
        # ranges that touch
        ("0-1,2-3", [0, 1, 2, 3], "0-3"),
        ("9,10", [9, 10], "9-10"),
        # flux-core's empty elements
        (",", [], ""),
        ("1,,2,", [1, 2], "1-2"),
        ("2147483647", [MAX_ID], "2147483647"),
    ],
)
def test_text_and_ids(text: str, expected: list[int], canonical: str) -> None:
    assert decode_idset(text) == expected
    assert encode_idset(expected) == canonical
    assert encode_ranges(decode_ranges(text)) == canonical


REFUSED = [
    # RFC 22: no leading zeroes
    ("01", "error parsing range '01'"),
    ("00", "error parsing range '00'"),
    ("0-01", "error parsing range '0-01'"),
    ("badmode", "error parsing range 'badmode'"),
    ("-1", "error parsing range '-1'"),
    ("+1", "error parsing range '+1'"),
    (" 1", "error parsing range ' 1'"),
    ("1\n", "error parsing range '1\n'"),
    ("1\0", "error parsing range '1\0'"),
    ("1-", "error parsing range '1-'"),
    ("1-2-3", "error parsing range '1-2-3'"),
    ("3-2", "error parsing range '3-2'"),
    ("1-1", "error parsing range '1-1'"),
    ("\u0663", "error parsing range '\u0663'"),
    # RFC 22: unique, ascending
    ("2,1", "range '1' is out of order"),
    ("1,1", "range '1' is out of order"),
    ("1-3,2", "range '2' is out of order"),
    ("1-3,3-4", "range '3-4' is out of order"),
    ("[", "mismatched or nested brackets"),
    ("[1,2", "mismatched or nested brackets"),
    ("1]", "mismatched or nested brackets"),
    ("[[1]]", "mismatched or nested brackets"),
    ("[1],[2]", "mismatched or nested brackets"),
    ("2147483648", "error appending '2147483648': set universe size would exceed maximum"),
    ("0-4294967297", "error appending '0-4294967297': set universe size would exceed maximum"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals_say_what_flux_says(text: str, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_idset(text)
    assert str(caught.value) == message


def test_a_refusal_is_no_longer_than_it_must() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_idset("9" * 5000)
    assert str(caught.value) == f"error parsing range '{'9' * 80}'"


def test_a_large_set_stays_ranges() -> None:
    assert decode_ranges("0-2147483647") == [(0, MAX_ID)]
    with pytest.raises(ProtocolError, match=r"ids in a set: 2147483648 exceeds the limit of 1048576"):
        decode_idset("0-2147483647")


def test_limit_is_on_the_whole_set() -> None:
    assert decode_idset("0-1,8", limit=3) == [0, 1, 8]
    with pytest.raises(ProtocolError, match="ids in a set: 4 exceeds the limit of 3"):
        decode_idset("0-1,8-9", limit=3)


@pytest.mark.parametrize("number", [-1, MAX_ID + 1])
def test_ids_out_of_range_are_not_written(number: int) -> None:
    with pytest.raises(ProtocolError, match="id out of range"):
        encode_idset([0, number])


def test_ids_come_in_any_order_and_often() -> None:
    assert encode_idset([5, 1, 4, 1]) == "1,4-5"


@given(ids)
def test_round_trip(numbers: set[int]) -> None:
    text = encode_idset(numbers)
    assert decode_idset(text) == sorted(numbers)
    assert decode_idset(f"[{text}]") == sorted(numbers)


@given(st.text() | near_misses)
def test_any_text_is_a_set_or_refused(text: str) -> None:
    try:
        numbers = decode_idset(text, limit=1000)
    except ProtocolError:
        return
    assert numbers == sorted(set(numbers))
    assert decode_idset(encode_idset(numbers)) == numbers


ASK_FLUX = """
import json, sys
from flux.idset import decode
for text in json.load(sys.stdin):
    try:
        print(json.dumps(str(decode(text))))
    except ValueError:
        print("null")
"""


@pytest.mark.system_flux
def test_flux_agrees(system_flux: str) -> None:
    # C does not see what follows a NUL, and flux-core lets 4294967297 wrap around
    texts = [text for text, _ in REFUSED if "\0" not in text and "4294967297" not in text]
    texts += ["", "[]", "1,,2,", "[1-3,5-6,42]", "0-1,2-3", "9,10"]
    command = [system_flux, "python", "-c", ASK_FLUX]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [read_and_written(text) for text in texts]


def read_and_written(text: str) -> str | None:
    try:
        return encode_idset(decode_idset(text))
    except ProtocolError:
        return None
