"""Lists of host names as text."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import MAX_NAME, decode_hostlist, encode_hostlist

numbered = st.builds(
    lambda prefix, number, width: f"{prefix}{number:0{width}}",
    st.sampled_from(["", "n", "n0", "rack-1-"]),
    st.integers(0, 12) | st.integers(98, 101) | st.integers(0, 2**70),
    st.integers(1, 4),
)
names = numbered | st.text(
    st.characters(exclude_characters=",[]\t \0", exclude_categories=["Cs"]), min_size=1, max_size=20
)

near_misses = st.lists(
    st.sampled_from(["a", "0", "1", "09", "1-3", "08-11", ",", " ", "-", "[", "]", "[1-2]", "n[09,10]", "9" * 20])
).map("".join)
"""Strings that are hostlists, or nearly."""

VECTORS = [
    # RFC 29, Test Vectors
    ("", "", ""),
    ("foox,fooy,fooz", "foox fooy fooz", "foox,fooy,fooz"),
    ("[1-3,5-6]", "1 2 3 5 6", "[1-3,5-6]"),
    ("foo[1-5]", "foo1 foo2 foo3 foo4 foo5", "foo[1-5]"),
    ("foo[0-2]-eth2", "foo0-eth2 foo1-eth2 foo2-eth2", "foo0-eth2,foo1-eth2,foo2-eth2"),
    ("foo1,foo1,foo1", "foo1 foo1 foo1", "foo[1,1,1]"),
    ("[00-02]", "00 01 02", "[00-02]"),
    ("[00-2]", "00 01 02", "[00-02]"),
    ("foo[1,1,2,1]", "foo1 foo1 foo2 foo1", "foo[1,1-2,1]"),
    # the width of each range is its own (RFC 29 would have the first one's)
    ("[005,4,11-13]", "005 4 11 12 13", "[005,4,11-13]"),
    # separators
    (",1,2,,3,", "1 2 3", "[1-3]"),
    ("foo1 foo2\tbar", "foo1 foo2 bar", "foo[1-2],bar"),
    # grouping
    ("vm,vm", "vm vm", "vm,vm"),
    ("foo1,fooi,foo2,foo3", "foo1 fooi foo2 foo3", "foo1,fooi,foo[2-3]"),
    ("foo-1a-2,foo-1a-3", "foo-1a-2 foo-1a-3", "foo-1a-[2-3]"),
    ("foo[12,4,1-2],bar7", "foo12 foo4 foo1 foo2 bar7", "foo[12,4,1-2],bar7"),
    ("14636", "14636", "14636"),
    ("x[1],y", "x1 y", "x1,y"),
    # padding
    ("[9-11],012", "9 10 11 012", "[9-11,012]"),
    ("a01,a2,a03", "a01 a2 a03", "a[01,2,03]"),
    ("n09,n10,n099,n100", "n09 n10 n099 n100", "n[09-10,099-100]"),
    ("p[00-2]p", "p00p p01p p02p", "p00p,p01p,p02p"),
]


@pytest.mark.parametrize(("text", "expected", "canonical"), VECTORS)
def test_text_and_names(text: str, expected: str, canonical: str) -> None:
    assert decode_hostlist(text) == expected.split()
    assert encode_hostlist(expected.split()) == canonical


def test_digits_before_the_bracket_join_the_number() -> None:
    assert decode_hostlist("f0[7-8]") == ["f07", "f08"]
    assert encode_hostlist(["f07", "f08"]) == "f[07-08]"


REFUSED_BY_FLUX = [
    *("foo]", "foo[", "]", "[", "foo]a", "foo[1,3", "foo[[1,3]", "],[1]"),
    *("[]", "foo[]", "foo[1,]", "foo[,1]", "foo[-1]", "foo[x-y]", "foo[0-1,2--5]", "foo[1-2-3]"),
    *("foo[1-0]", "foo[2,10-9]", "foo[0-1048576]"),
]

REFUSED_BY_US = [
    *("foo[1-]", "foo[+1]", "foo[1, 2]", "foo[1x-3]", "foo[\u0663]"),
    *("foo[1-2]-[1-2]", "foo[1]]", "a]b[1]"),
    *("foo[18446744073709551616]", "foo\0"),
]

TOO_LONG = {
    "name": "x" * (MAX_NAME + 1),
    "prefix": f"{'x' * MAX_NAME}[1]",
    "suffix": f"[1]{'x' * MAX_NAME}",
    "first number": f"[{'0' * 5000}1-2]",
    "last number": f"[1-{'9' * 5000}]",
}


@pytest.mark.parametrize("text", REFUSED_BY_FLUX + REFUSED_BY_US)
def test_refusals(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode_hostlist(text)


@pytest.mark.parametrize("part", TOO_LONG)
def test_long_names_are_refused(part: str) -> None:
    with pytest.raises(ProtocolError, match="host name longer than 255 characters"):
        decode_hostlist(TOO_LONG[part])


def test_limit_is_on_the_whole_list() -> None:
    assert len(decode_hostlist("a[1-2],b", limit=3)) == 3
    for text in ("a[1-4]", "a[1-2]x,b[1-2]", "a,b,c,d", "[1-2,1-2]"):
        with pytest.raises(ProtocolError):
            decode_hostlist(text, limit=3)


def test_the_longest_name() -> None:
    name = "x" * (MAX_NAME - 1)
    assert decode_hostlist(f"{name}[8-9]") == [f"{name}8", f"{name}9"]
    with pytest.raises(ProtocolError):
        decode_hostlist(f"{name}[8-10]")


@pytest.mark.parametrize("name", ["", "a,b", "a b", "a\tb", "a[1]", "a\0", TOO_LONG["name"]])
def test_names_that_could_not_be_read_back_are_not_written(name: str) -> None:
    with pytest.raises(ProtocolError):
        encode_hostlist(["foo", name])


@given(st.lists(names))
@example(["n9", "n10", "n010", "n011"])
@example(["n18446744073709551615", "n18446744073709551616"])
def test_round_trip(hosts: list[str]) -> None:
    assert decode_hostlist(encode_hostlist(hosts)) == hosts


@given(st.text() | near_misses)
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        hosts = decode_hostlist(text, limit=1000)
    except ProtocolError:
        return
    assert decode_hostlist(encode_hostlist(hosts)) == hosts


ASK_FLUX = """
import json, sys
from flux.hostlist import Hostlist, decode
for text in json.load(sys.stdin):
    try:
        names = list(decode(text))
        print(json.dumps([names, Hostlist(names).encode()]))
    except (ValueError, OSError):
        print("null")
"""


@pytest.mark.system_flux
def test_flux_agrees(system_flux: str) -> None:
    texts = [text for text, _, _ in VECTORS] + REFUSED_BY_FLUX
    command = [system_flux, "python", "-c", ASK_FLUX]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [read_and_written(text) for text in texts]


def read_and_written(text: str) -> list[object] | None:
    try:
        hosts = decode_hostlist(text)
    except ProtocolError:
        return None
    return [hosts, encode_hostlist(hosts)]
