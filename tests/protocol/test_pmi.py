"""The line grammar of PMI-1, and the client's side."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol import pmi
from pytest_flux.protocol.errors import ProtocolError

any_value = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]))
word = st.text(st.characters(exclude_characters=pmi.WHITE_SPACE + "\n\0=", exclude_categories=["Cs"]), min_size=1)


def slices(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in pieces of the given sizes, then the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def test_encode_puts_strings_last() -> None:
    assert pmi.encode("put", value="b c=d", kvsname="-", key="a") == b"cmd=put kvsname=- key=a value=b c=d\n"
    assert pmi.encode("init", pmi_version=1, pmi_subversion=1) == b"cmd=init pmi_version=1 pmi_subversion=1\n"
    assert pmi.encode("barrier_in") == b"cmd=barrier_in\n"


def test_an_abort_message_loses_its_newlines() -> None:
    assert pmi.encode("abort", exitcode=3, error_msg="a\nb") == b"cmd=abort exitcode=3 error_msg=a b\n"


@pytest.mark.parametrize("fields", [{"key": "a b"}, {"key": "a\tb"}, {"value": "a\nb"}, {"key": "a\0"}])
def test_encode_refuses_what_would_not_arrive(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        pmi.encode("put", **fields)


@given(word, any_value)
def test_values_arrive_as_they_were_sent(key: str, value: str) -> None:
    line = pmi.encode("put", kvsname="-", key=key, value=value)
    (text,) = pmi.LineBuffer(limit=10**6).feed(line)
    assert pmi.word_at(text, pmi.find_field(text, "key")) == key
    response = pmi.decode_response(line)
    assert response.fields["value"] == value.removesuffix(" found=TRUE")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cmd=barrier_out tag=0", pmi.Response("barrier_out", {"tag": "0"}, 0)),  # Hydra of MPICH 5: no rc
        ("cmd=get_result rc=1", pmi.Response("get_result", {"rc": "1"}, 1)),
        (
            "cmd=get_result rc=0 value=(vector,(0,1,2)) found=TRUE",  # Hydra of MPICH 4.1
            pmi.Response("get_result", {"rc": "0", "value": "(vector,(0,1,2))"}, 0),
        ),
        (
            "cmd=response_to_init pmi_version=1 pmi_subversion=2 rc=0",
            pmi.Response("response_to_init", {"pmi_version": "1", "pmi_subversion": "2", "rc": "0"}, 0),
        ),
        (
            b"  rc=-1\tcmd=publish_result   msg=command not implemented\n",
            pmi.Response("publish_result", {"rc": "-1", "msg": "command not implemented"}, -1),
        ),
        (
            "cmd=my_kvsname kvsname=kvs_1 idle rc=0\r",
            pmi.Response("my_kvsname", {"kvsname": "kvs_1", "rc": "0"}, 0),
        ),
        ("cmd=get_result value= rc=5", pmi.Response("get_result", {"value": " rc=5"}, 0)),
        (b"cmd=get_result value=\xff", pmi.Response("get_result", {"value": "\udcff"}, 0)),
    ],
)
def test_responses_of_several_servers(line: bytes | str, expected: pmi.Response) -> None:
    assert pmi.decode_response(line) == expected


@pytest.mark.parametrize("line", ["", "rc=0", "cmd=", "xcmd=init", "cmd=a rc=", "cmd=a rc=1.5", "cmd=a rc=\u0663"])
def test_what_is_no_response(line: str) -> None:
    with pytest.raises(ProtocolError):
        pmi.decode_response(line)


@given(st.one_of(st.binary(), st.text(), st.binary().map(lambda tail: b"cmd=x rc=" + tail)))
def test_garbage_for_a_response(line: bytes | str) -> None:
    try:
        pmi.decode_response(line)
    except ProtocolError:
        pass


def test_a_key_is_found_at_a_word_boundary_only() -> None:
    line = "cmd=put xkey=1 keys=2 \tkey=3 key=4"
    assert pmi.word_at(line, pmi.find_field(line, "key")) == "3"
    assert pmi.find_field("xkey=1", "key") == -1
    assert pmi.word_at("key=\N{NO-BREAK SPACE}a\vb", 4) == "\N{NO-BREAK SPACE}a"


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("cmd=get_maxes", "get_maxes"),  # "get" is a prefix of it
        ("cmd=get", "get"),
        ("cmd=getter kvsname=-", "get"),
        ("  foo=bar\tcmd=get_maxesXX", "get_maxes"),
        ("cmd=get_my", "get"),
        ("cmd=finalize\r", "finalize"),
        ("mcmd=spawn", "spawn"),
    ],
)
def test_commands_are_recognized_by_prefix(line: str, command: str) -> None:
    """Each of these was tried on flux-core 0.88's server."""
    assert pmi.command_of(line) == command


@pytest.mark.parametrize("line", ["", "this is not pmi", "xcmd=init", "cmd=", "cmd=spawn", "cmd=barrier", "mcmd=x"])
def test_what_is_no_command(line: str) -> None:
    with pytest.raises(ProtocolError):
        pmi.command_of(line)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("4294967295", 2**32 - 1),
        ("4294967296", None),
        ("-1", None),
        ("", None),
        ("1x", None),
        ("9" * 5000, None),
    ],
)
def test_unsigned_numbers(text: str, number: int | None) -> None:
    assert pmi.unsigned_field(f"cmd=abort exitcode={text} x=7", "exitcode") == number


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 9)))
def test_lines_do_not_depend_on_the_slicing(lines: list[bytes], sizes: list[int]) -> None:
    lines = [line.translate(None, b"\n\0") for line in lines]
    stream = b"".join(line + b"\n" for line in lines)
    buffer = pmi.LineBuffer()
    cut = []
    for piece in slices(stream, sizes):
        cut += buffer.feed(piece)
    assert [pmi.encode_line(line) for line in cut] == [line + b"\n" for line in lines]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([b"a" * 8, b"a" * 9, b"b\0", b"c", b""])),
    st.sampled_from([b"", b"d" * 8, b"d" * 9]),
)
def test_the_first_bad_line_ends_the_stream_but_loses_nothing(lines: list[bytes], tail: bytes) -> None:
    stream = b"".join(line + b"\n" for line in lines) + tail
    outcomes = []
    for pieces in ([stream], [bytes([byte]) for byte in stream]):
        buffer, cut = pmi.LineBuffer(limit=8), list[str]()
        try:
            for piece in [*pieces, b""]:
                cut += buffer.feed(piece)
            outcomes.append((cut, False))
        except ProtocolError:
            outcomes.append((cut, True))
    good = [line for line in lines if len(line) <= 8 and b"\0" not in line]
    bad = len(good) < len(lines) or len(tail) > 8
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] is bad
    if len(good) == len(lines):
        assert outcomes[0][0] == [line.decode() for line in lines]


def test_a_line_may_be_as_long_as_the_limit() -> None:
    buffer = pmi.LineBuffer()
    assert buffer.feed(b"x" * pmi.LINE_MAX) == []
    assert buffer.feed(b"\n") == ["x" * pmi.LINE_MAX]
    with pytest.raises(ProtocolError):
        buffer.feed(b"x" * (pmi.LINE_MAX + 1))
    with pytest.raises(ProtocolError):
        buffer.feed(b"\n")
