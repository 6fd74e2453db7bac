"""`flux dmesg` and `flux logger`."""

from __future__ import annotations

import errno
import io
import re
import sys
import time
from collections.abc import Iterator

import pytest

from pytest_flux.cli.commands.instance.log import Entry, Printer, iso_time, parse_entry, parse_stamp
from pytest_flux.cli.flux import main
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]

LINES = (
    "<56>1 2026-11-22T11:53:07.508577Z 0 job-manager 12 - - scheduler: ready",
    "<48>1 2026-11-22T11:53:07.860828Z 2 broker 12 - - quorum-full: quorum->run 3.2s",
    "<24>1 2026-11-22T11:54:59.957830Z 1 logger 12 - - bad",
    "no log line at all",
)


@pytest.fixture
def bed(bed: ScriptedBroker) -> ScriptedBroker:
    bed.on("log.dmesg", answer_log)
    return bed


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone that the test is parametrized with."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


in_utc = pytest.mark.parametrize("zone", ["UTC"], indirect=True)


def answer_log(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
    for line in LINES:
        bed.answer(connection, request, line.encode() + b"\0")
    bed.answer(connection, request, errnum=errno.ENODATA)


def test_entry() -> None:
    assert parse_entry(LINES[0]) == Entry(7, "2026-11-22T11:53:07.508577Z", 0, "job-manager", "scheduler: ready")


def test_entry_with_structured_data() -> None:
    entry = parse_entry('<8>1 - host app - - [id a="b c"] text [x]')
    assert entry == Entry(1, "-", 0, "app", "text [x]")


@pytest.mark.parametrize(
    "line", ["", "<", "<x>1 a b c d e f", "no", "<8>1 a b c d", "<8>1 a b c d e f", "8>1 a b c d e f g"]
)
def test_what_is_no_entry(line: str) -> None:
    assert parse_entry(line) is None


@pytest.mark.parametrize("stamp", ["", "x", "2026-13-22T11:53:07Z", "2026-11-22T11:53:07.xZ"])
def test_what_is_no_time(stamp: str) -> None:
    assert parse_stamp(stamp) is None
    assert iso_time(stamp) == stamp


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("UTC", "2026-11-22T11:53:07.508577Z"),
        ("EST5", "2026-11-22T06:53:07.508577-05:00"),
        ("XXX-5:30", "2026-11-22T17:23:07.508577+05:30"),
    ],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_time_in_our_zone(text: str) -> None:
    assert iso_time("2026-11-22T11:53:07.508577Z") == text


@in_utc
@pytest.mark.usefixtures("zone")
def test_plain(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["dmesg"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-22T11:53:07.508577Z job-manager.debug[0]: scheduler: ready",
        "2026-11-22T11:53:07.860828Z broker.info[2]: quorum-full: quorum->run 3.2s",
        "2026-11-22T11:54:59.957830Z logger.err[1]: bad",
        "no log line at all",
    ]
    assert bed.received[-1].json() == {"follow": False, "nobacklog": False}


@in_utc
@pytest.mark.usefixtures("zone", "bed")
def test_human(capsys: Capture) -> None:
    assert main(["dmesg", "-H"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[Nov22 11:53] job-manager.debug[0]: scheduler: ready",
        "[  +0.352251] broker.info[2]: quorum-full: quorum->run 3.2s",
        "[Nov22 11:54] logger.err[1]: bad",
        "no log line at all",
    ]


@in_utc
@pytest.mark.usefixtures("zone")
def test_delta_is_since_the_line_before() -> None:
    stamps = ("07.1", "08.1", "10.3")
    lines = [f"<8>1 2026-11-22T11:53:{stamp}Z 0 a 1 - - x" for stamp in stamps]
    plain, delta = (Printer(color=False, human=True, delta=delta) for delta in (False, True))
    assert [plain.format(line)[:13] for line in lines] == ["[Nov22 11:53]", "[  +1.000000]", "[  +3.200000]"]
    assert [delta.format(line)[:13] for line in lines] == ["[Nov22 11:53]", "[  +1.000000]", "[  +2.200000]"]


@in_utc
@pytest.mark.usefixtures("zone", "bed")
@pytest.mark.parametrize("words", [["--color"], ["-L"], ["-Lalways"], ["--color=always"]])
def test_color(words: list[str], capsys: Capture) -> None:
    assert main(["dmesg", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == ("\x1b[32m2026-11-22T11:54:59.957830Z\x1b[0m \x1b[33mlogger.err[1]\x1b[0m: \x1b[31mbad\x1b[0m")
    assert lines[3] == "no log line at all"


@pytest.mark.usefixtures("bed")
@pytest.mark.parametrize("words", [[], ["--color=never"], ["--color=auto"]])
def test_no_color_where_no_terminal_is(words: list[str], capsys: Capture) -> None:
    assert main(["dmesg", *words]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_clear(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("log.clear", {})
    assert main(["dmesg", "-C"]) == 0
    assert capsys.readouterr().out == ""
    assert bed.requests == ["log.clear"]
    assert main(["dmesg", "--read-clear"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert bed.requests == ["log.clear", "log.dmesg", "log.clear"]


def test_follow_new(bed: ScriptedBroker) -> None:
    assert main(["dmesg", "--follow", "--new"]) == 0
    assert bed.received[-1].json() == {"follow": True, "nobacklog": True}


def test_errors(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["dmesg", "x"]) == 1
    assert main(["dmesg", "-d"]) == 1
    assert main(["dmesg", "--color=x"]) == 1
    bed.on("log.dmesg", errnum=errno.EPERM)
    assert main(["dmesg"]) == 1
    assert main(["dmesg", "-C"]) == 1
    assert capsys.readouterr().err == (
        "flux-dmesg: flux-dmesg accepts no free arguments\n"
        "flux-dmesg: --delta can only be used with --human\n"
        "flux dmesg: Invalid argument to --color: 'x'\n"
        "flux-dmesg: log.dmesg: Operation not permitted\n"
        "flux-dmesg: log.clear: No service matching log.clear is registered\n"
    )


def test_logger(bed: ScriptedBroker) -> None:
    bed.on("log.append", lambda *_: None)
    assert main(["logger", "hello", "-s", "DEBUG", "--appname=app", "world"]) == 0
    assert main(["getattr", "size"]) == 0  # the log has arrived when this has
    request = next(message for message in bed.received if message.topic == "log.append")
    assert re.fullmatch(
        rb"<56>1 [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z 0 app [0-9]+ - - hello world",
        request.payload or b"",
    )
    assert request.matchtag == 0


def test_logger_reads_lines(bed: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.on("log.append", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\ntwo\r\n\xff\n")))
    assert main(["logger"]) == 0
    assert main(["getattr", "size"]) == 0
    lines = [message.payload or b"" for message in bed.received if message.topic == "log.append"]
    assert [line.rpartition(b" - - ")[2] for line in lines] == [b"one", b"two", b"\xff"]
    assert all(line.startswith(b"<40>1 ") for line in lines)


def test_logger_knows_its_severities(capsys: Capture) -> None:
    assert main(["logger", "-s", "bad", "x"]) == 1
    assert capsys.readouterr().err == (
        "flux-logger: invalid severity: Use emerg|alert|crit|err|warning|notice|info|debug\n"
    )
