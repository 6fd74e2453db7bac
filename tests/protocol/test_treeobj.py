"""RFC 10 blobrefs, RFC 11 tree objects, keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import blobref_of, decode_blobref, encode_blobref
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.kvs_key import join_key, normalize_key
from pytest_flux.protocol.treeobj import TreeObject, decode_treeobj, load_treeobj

REF = "sha1-" + "0" * 40

names = st.text(st.characters(codec="utf-8"), max_size=8)
leaves = st.one_of(
    st.binary(max_size=100).map(treeobj.val),
    st.lists(st.binary(max_size=8).map(lambda data: blobref_of("sha1", data)), min_size=1).map(treeobj.valref),
    st.binary(max_size=8).map(lambda data: treeobj.dirref(blobref_of("sha256", data))),
    st.tuples(names, st.none() | names).map(lambda pair: treeobj.symlink(*pair)),
)
objects = st.recursive(leaves, lambda children: st.dictionaries(names, children, max_size=4).map(treeobj.directory))


def test_empty_directory_has_the_blobref_that_flux_gives_it() -> None:
    assert blobref_of("sha1", treeobj.directory().encode()) == "sha1-c0a9faf907dda6216fd73bf81d0b3b21a1a8cb91"


def test_encoding_is_janssons() -> None:
    """Recorded from flux-core 0.88: capital digits in escapes, DEL and slash as they are."""
    one = treeobj.val(b"1")
    encoded = treeobj.directory({'x\x01\x1f\x0b\x7fü/"\\q': one, "a": one}).encode()
    assert blobref_of("sha1", encoded) == "sha1-e79e86c0cb9ffe8b54cc0a2505165596f6262b4b"
    assert b"\\u001F\\u000B\x7f" in encoded


def test_backslash_before_u_is_no_escape() -> None:
    assert treeobj.symlink("\\u00ab").encode() == b'{"data":{"target":"\\\\u00ab"},"type":"symlink","ver":1}'


@given(objects)
@settings(max_examples=60)
def test_round_trip(entry: TreeObject) -> None:
    again = load_treeobj(entry.encode())
    assert again.encode() == entry.encode()
    assert decode_treeobj(entry.json()).encode() == entry.encode()
    assert json.loads(entry.encode()) == entry.json()


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_values_round_trip(data: bytes) -> None:
    assert treeobj.val(data).value() == data


def test_extended_is_what_a_new_encoding_would_be() -> None:
    refs = [blobref_of("sha1", bytes([number])) for number in range(4)]
    grown = treeobj.valref(refs[:1]).extended(refs[1:2]).extended(refs[2:])
    assert grown.data == refs
    assert grown.encode() == treeobj.valref(refs).encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        [],
        {},
        {"ver": 1, "type": "val"},
        {"ver": 2, "type": "val", "data": ""},
        {"ver": 1.0, "type": "val", "data": ""},
        {"ver": True, "type": "val", "data": ""},
        {"ver": 1, "type": "val", "data": "", "more": 1},
        {"ver": 1, "type": "file", "data": ""},
        {"ver": 1, "type": [], "data": ""},
        {"ver": 1, "type": "val", "data": None},
        {"ver": 1, "type": "valref", "data": []},
        {"ver": 1, "type": "valref", "data": REF},
        {"ver": 1, "type": "dirref", "data": ["sha1-00"]},
        {"ver": 1, "type": "dirref", "data": [None]},
        {"ver": 1, "type": "dir", "data": []},
        {"ver": 1, "type": "dir", "data": {"a": {}}},
        {"ver": 1, "type": "symlink", "data": "a"},
        {"ver": 1, "type": "symlink", "data": {"target": 1}},
        {"ver": 1, "type": "symlink", "data": {"target": "a", "namespace": None}},
    ],
)
def test_what_is_no_tree_object(value: object) -> None:
    with pytest.raises(ProtocolError):
        decode_treeobj(value)


def test_a_tree_object_that_is_nested_too_deeply() -> None:
    value: dict[str, Any] = {"ver": 1, "type": "dir", "data": {}}
    for _ in range(5000):
        value = {"ver": 1, "type": "dir", "data": {"a": value}}
    with pytest.raises(ProtocolError, match="too deeply"):
        decode_treeobj(value)


@given(st.binary(max_size=60))
@settings(max_examples=60)
def test_garbage_is_no_stored_object(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        load_treeobj(data + b"?")


def test_bad_base64_and_bad_text() -> None:
    with pytest.raises(ProtocolError):
        TreeObject("val", "!!!").value()
    with pytest.raises(ProtocolError):
        treeobj.directory({"\ud800": treeobj.val(b"")}).encode()


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_blobrefs(name: str) -> None:
    ref = blobref_of(name, b"some bytes")
    assert encode_blobref(name, decode_blobref(ref)) == ref


@pytest.mark.parametrize("text", ["", "sha1", "sha1-", "sha1-zz", REF + "0", REF.upper(), "md5-" + "0" * 32, None, 7])
def test_what_is_no_blobref(text: object) -> None:
    with pytest.raises(ProtocolError):
        decode_blobref(text)


@pytest.mark.parametrize(
    ("key", "normal"),
    [("", ""), (".", "."), ("...", "."), ("a", "a"), (".a.", "a"), ("a..b...c", "a.b.c"), ("..a", "a"), ("a..", "a")],
)
def test_keys(key: str, normal: str) -> None:
    assert normalize_key(key) == normal
    assert join_key(key, "x") == ("x" if normal in ("", ".") else f"{normal}.x")
