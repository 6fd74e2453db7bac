from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.broker.boot.bizcard import Bizcard, machine_identity
from pytest_flux.protocol.errors import ProtocolError

# Put by rank 0 of a real instance (pmi-trace-size4.txt), its rundir apart.
RECORDED = '{"host":"vm","uri":["ipc:///tmp/flux-rundir/tbon-0"],"pubkey":"y!zEiVrL7[&m+S&@%D1<t:c/pzqK1Vn1zV#3>=VM"}'


def test_the_recorded_card() -> None:
    card = Bizcard.decode(RECORDED)
    assert card.host == "vm"
    assert card.uri == ("ipc:///tmp/flux-rundir/tbon-0",)
    assert card.pubkey == "y!zEiVrL7[&m+S&@%D1<t:c/pzqK1Vn1zV#3>=VM"
    assert card.machine is None
    assert card.encode() == RECORDED


def test_a_card_of_ours_has_no_key_but_a_machine() -> None:
    card = Bizcard("vm", ("ipc:///tmp/tbon-0",), machine="here")
    assert card.encode() == '{"host":"vm","uri":["ipc:///tmp/tbon-0"],"machine":"here"}'
    assert Bizcard("vm").encode() == '{"host":"vm","uri":[]}'


def test_uris_are_found_by_scheme() -> None:
    card = Bizcard("vm", ("tcp://[::1]:5", "ipc:///tmp/a", "ipc:///tmp/b"))
    assert card.find_uri("ipc://") == "ipc:///tmp/a"
    assert card.find_uri() == "tcp://[::1]:5"
    assert card.find_uri("shm://") is None


@pytest.mark.parametrize("path", ["/tmp/my dir/é", '/tmp/"\\', "/tmp/100%25", "/tmp/\udcff", "/tmp/a;b=c"])
def test_a_card_survives_servers_that_dislike_white_space_and_backslashes(path: str) -> None:
    card = Bizcard("vm", ("ipc://" + path,), machine="here")
    text = card.encode()
    assert not set(text) & set(" \t\\")
    assert text.isascii()
    assert Bizcard.decode(text) == card


def test_the_uris_of_others_are_taken_literally() -> None:
    assert Bizcard.decode('{"host":"vm","uri":["ipc:///tmp/%41"]}').uri == ("ipc:///tmp/%41",)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
cards = st.builds(
    Bizcard,
    host=words,
    uri=st.lists(words.map("ipc://{}".format)).map(tuple),
    pubkey=st.none() | words,
    machine=st.none() | words,
)


@given(cards)
def test_what_was_encoded_is_decoded(card: Bizcard) -> None:
    assert Bizcard.decode(card.encode()) == card


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        Bizcard.decode(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"uri":[]}', "without a host"),
        ('{"host":3,"uri":[]}', "host is not a string"),
        ('{"host":"a"}', "without an array of URIs"),
        ('{"host":"a","uri":"tcp://b"}', "without an array of URIs"),
        ('{"host":"a","uri":[1]}', "without an array of URIs"),
        ('{"host":"a","uri":["tbon-0"]}', "without a scheme"),
        ('{"host":"a","uri":[],"pubkey":1}', "pubkey is not a string"),
        ('{"host":"a","uri":[],"machine":[]}', "machine is not a string"),
    ],
)
def test_errors_say_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        Bizcard.decode(text)


def test_a_uri_without_a_scheme_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="without a scheme"):
        Bizcard("vm", ("/tmp/tbon-0",)).encode()


def test_the_machine_is_one_word_and_does_not_change() -> None:
    identity = machine_identity()
    assert identity.split() == [identity]
    assert "\\" not in json.dumps(identity)
    assert machine_identity() == identity
