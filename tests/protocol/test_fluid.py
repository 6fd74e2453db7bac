"""FLUIDs in all their forms. The examples come from RFC 19 and from `flux job id` of flux-core 0.88."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import (
    FORMS,
    FluidGenerator,
    encode_fluid,
    f58,
    f58_for,
    fluid_timestamp,
    kvs_key,
    parse_fluid,
)

FLUIDS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("fluid", "text"),
    [
        (0, "ƒ1"),
        (75279368192, "ƒ2yhBSUF"),
        (6731191091817518, "ƒuZZybuNNy"),
        (16995319808, "ƒStpTUK"),
        (52764344320, "ƒ2PPc4HV"),
    ],
)
def test_f58(fluid: int, text: str) -> None:
    """With the letter of people, and with that of ASCII."""
    assert f58(fluid) == text
    assert parse_fluid(text) == fluid
    assert parse_fluid(text.replace("ƒ", "f")) == fluid


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("dec", "75279368192"),
        ("hex", "0x1187000000"),
        ("dothex", "0000.0011.8700.0000"),
        ("kvs", "job.0000.0011.8700.0000"),
        ("f58", "ƒ2yhBSUF"),
        ("f58plain", "f2yhBSUF"),
    ],
)
def test_other_forms(form: str, text: str) -> None:
    """What `flux job id --to` prints."""
    assert encode_fluid(75279368192, form) == text
    assert parse_fluid(f"  {text}") == 75279368192


@pytest.mark.parametrize(
    ("fluid", "words", "emoji"),
    [
        (0, "academy-academy-academy--academy-academy-academy", "😃"),
        (1023, "serpent-academy-academy--academy-academy-academy", "😄📚"),
        (1234567890123, "pupil-miracle-toronto--formal-academy-academy", "😋🎅🏃🎃🏢"),
        (2**64 - 1, "natural-analyze-verbal--natural-analyze-verbal", "🚹💗💧👗😷📷📚"),
    ],
)
def test_words_and_emoji(fluid: int, words: str, emoji: str) -> None:
    """What flux-core prints."""
    assert encode_fluid(fluid, "words") == words
    assert encode_fluid(fluid, "emoji") == emoji
    assert parse_fluid(words) == parse_fluid(f" {emoji} ") == fluid


@given(FLUIDS, st.sampled_from(FORMS))
def test_round_trip(fluid: int, form: str) -> None:
    """Every form leads back, whichever it is."""
    assert parse_fluid(encode_fluid(fluid, form)) == fluid


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "ƒ", "f", "foo!", "f0", "fIl", "f" + "z" * 13, "fzzzzzzzzzzzz", "1.2.3", "1.2.3.4.5", "1.2.3.g",
        "12345.0.0.0", "1..2.3", "a-b", "academy-academy-academy--academy-academy-nonsense", "0x", "0xg",
        "0x_1", "1_0", "-1", "+1", "18446744073709551616", "1" * 5000, "\u0661", "👠🦖", "😃" * 8, "1 2", "job.1.2.3",
    ],
)  # fmt: skip
def test_what_is_no_job_id(text: str) -> None:
    """One family of errors."""
    with pytest.raises(ProtocolError):
        parse_fluid(text)


@given(st.text(max_size=40))
def test_garbage(text: str) -> None:
    """Whatever is typed is a FLUID or a ProtocolError."""
    try:
        fluid = parse_fluid(text)
    except ProtocolError:
        return
    assert 0 <= fluid < 2**64


def test_unknown_form() -> None:
    """Only known forms can be asked for."""
    with pytest.raises(ProtocolError):
        encode_fluid(1, "roman")


def test_keys() -> None:
    """Where job data are."""
    assert kvs_key(16995319808, "eventlog") == "job.0000.0003.f500.0000.eventlog"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=300), st.integers(0, 2**14 - 1))
def test_generated_ids_grow(steps: list[int], generator: int) -> None:
    """Whatever the clock does, ids are new, in order, and tell who made them."""
    fluids = FluidGenerator(generator, 5, 1000)
    now, seen = 1000, []
    for step in steps:
        now += step
        seen.append(fluids.generate(now))
    assert seen == sorted(set(seen))
    assert all(fluid >> 10 & 0x3FFF == generator for fluid in seen)
    assert fluid_timestamp(seen[0]) == 5 + steps[0]


def test_more_ids_than_a_millisecond_has() -> None:
    """They are taken from the time to come."""
    fluids = FluidGenerator(0, 1, 0)
    seen = [fluids.generate(0) for _ in range(3000)]
    assert seen == sorted(set(seen))
    assert fluid_timestamp(seen[-1]) == 3
    assert fluid_timestamp(fluids.generate(100)) == 101


def test_generator_out_of_range() -> None:
    """14 bits."""
    with pytest.raises(ProtocolError):
        FluidGenerator(2**14, 0, 0)


@pytest.mark.parametrize(
    ("environ", "prefix"),
    [
        ({}, "f"),
        ({"LANG": "C.UTF-8"}, "ƒ"),
        ({"LANG": "en_US.utf8@euro"}, "ƒ"),
        ({"LANG": "en_US"}, "f"),
        ({"LANG": "en_US.ISO-8859-1"}, "f"),
        ({"LANG": "C.UTF-8", "LC_CTYPE": "C"}, "f"),
        ({"LANG": "C.UTF-8", "LC_ALL": "POSIX"}, "f"),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8", "LC_ALL": ""}, "ƒ"),
        ({"LANG": "C.UTF-8", "FLUX_F58_FORCE_ASCII": ""}, "f"),
    ],
)
def test_f58_follows_the_locale(environ: dict[str, str], prefix: str) -> None:
    assert f58_for(58, environ) == f"{prefix}21"
