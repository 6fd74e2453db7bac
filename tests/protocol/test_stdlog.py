"""Log lines: what flux-core writes, reads and prints."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO
from pytest_flux.protocol.stdlog import (
    MAX_HEADER,
    LogEntry,
    decode_entry,
    encode_entry,
    format_stderr,
    format_timestamp,
    split_text,
)

ENTRY = LogEntry(LOG_INFO, 0, "2026-11-22T11:45:39.104527Z", "0", "broker", "4711", "online: vm (ranks 0)")
LINE = b"<48>1 2026-11-22T11:45:39.104527Z 0 broker 4711 - - online: vm (ranks 0)"

header_fields = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=32)
texts = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape").rstrip("\r\n"))
entries = st.builds(
    LogEntry,
    severity=st.integers(0, 7),
    facility=st.integers(0, 7),
    timestamp=header_fields,
    rank=header_fields,
    appname=header_fields,
    procid=header_fields,
    text=texts,
)


@pytest.fixture
def time_zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_line_of_a_real_broker() -> None:
    assert encode_entry(ENTRY) == LINE
    assert decode_entry(LINE) == ENTRY
    assert decode_entry(LINE.decode()) == ENTRY


def test_severity_and_facility_are_exchanged() -> None:
    assert encode_entry(ENTRY._replace(severity=LOG_ERR)).startswith(b"<24>1 ")
    assert decode_entry(b"<57>1 - 0 a - - - x")[:2] == (7, 1)


def test_structured_data_is_passed_over() -> None:
    assert decode_entry(b'<48>1 - 0 a - - [id@1 k="v w"][b] the text').text == "the text"


def test_a_text_may_be_empty_and_may_hold_anything() -> None:
    assert decode_entry(b"<48>1 - 0 a - - - ").text == ""
    raw = b"<48>1 - 0 a 1 - - \xff\xfe\x82 \xc6\x92"
    assert encode_entry(decode_entry(raw)) == raw


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"<>1 - 0 a - - - x",
        b"<-1>1 - 0 a - - - x",
        b"<48>1 - 0 a - - -",  # no space after the structured data
        b"<48>1 - 0 a - - [open x",
        b"<48>1 -  a - - - x",  # an empty field
        b"<48> - 0 a - - - x",
        b"<48>1 - 0 " + b"a" * MAX_HEADER + b" - - - x",
    ],
)
def test_not_a_log_line(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="log line"):
        decode_entry(line)


@given(entries)
def test_round_trip(entry: LogEntry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@settings(max_examples=60)
@given(entries, st.data())
def test_a_cut_header_is_never_read(entry: LogEntry, data: st.DataObject) -> None:
    line = encode_entry(entry)
    header = len(line) - len(entry.text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ProtocolError):
        decode_entry(line[: data.draw(st.integers(0, header - 1))])


@given(st.binary(max_size=80))
def test_garbage_gives_an_entry_or_a_protocol_error(raw: bytes) -> None:
    try:
        decode_entry(b"<48>1 " + raw)
    except ProtocolError:
        pass


def test_hostile_header_fields_cannot_shift_the_others() -> None:
    entry = ENTRY._replace(appname="a b\n" + "x" * 90, procid="", text="text\r\n")
    decoded = decode_entry(encode_entry(entry))
    assert decoded.appname == "a_b_" + "x" * 44
    assert decoded.procid == "-"
    assert decoded.text == "text"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one", ["one"]),
        ("one\ntwo\r\n\r\nthree\n", ["one", "two", "three"]),
        ("", [""]),
        ("\n\n", [""]),
        ("\nafter", ["", "after"]),
    ],
)
def test_one_entry_for_each_line(text: str, lines: list[str]) -> None:
    assert split_text(text) == lines


def test_timestamps_have_microseconds() -> None:
    assert format_timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert format_timestamp(1795347939.104527) == "2026-11-22T11:45:39.104527Z"
    assert format_timestamp(1795347939.9999999) == "2026-11-22T11:45:40.000000Z"


@pytest.mark.parametrize(
    ("time_zone", "printed"),
    [
        ("UTC", "Nov 22 11:45:39.104527 UTC 2026 broker.info[0]: online: vm (ranks 0)"),
        ("PST8PDT,M3.2.0,M11.1.0", "Nov 22 03:45:39.104527 PST 2026 broker.info[0]: online: vm (ranks 0)"),
    ],
    indirect=["time_zone"],
)
@pytest.mark.usefixtures("time_zone")
def test_printed_in_the_local_time_zone(printed: str) -> None:
    assert format_stderr(ENTRY, local=False) == printed


def test_printed_for_the_journal() -> None:
    assert format_stderr(ENTRY, local=True) == "<6>broker.info[0]: online: vm (ranks 0)"


@pytest.mark.parametrize("timestamp", ["-", "yesterday", "2026-13-01T00:00:00Z", "2026-11-22T11:45:39+01:00"])
def test_a_timestamp_that_is_none_is_printed_as_it_is(timestamp: str) -> None:
    entry = ENTRY._replace(timestamp=timestamp)
    assert format_stderr(entry, local=False) == f"{timestamp} broker.info[0]: online: vm (ranks 0)"
