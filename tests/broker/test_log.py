"""The log of a broker: what is kept, printed, forwarded and filed. Cases seen with brokers of flux-core 0.88."""

from __future__ import annotations

import errno
import io
import os
import re
import syslog
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

import pytest

from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.log import BrokerLog
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_CRIT, LOG_DEBUG, LOG_EMERG, LOG_ERR, LOG_INFO
from pytest_flux.protocol.stdlog import LogEntry, decode_entry, encode_entry

STAMP = r"[A-Z][a-z]{2} [0-9]{2} [0-9:]{8}\.[0-9]{6} UTC [0-9]{4}"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def close_files() -> Iterator[None]:
    yield
    while Broker.opened:
        Broker.opened.pop().close()


class Broker:
    """A log with all that it can write to."""

    opened: ClassVar[list[IO[str]]] = []

    def __init__(self, rank: int | None = None, **settings: str | None) -> None:
        self.attributes = Attributes()
        self.attributes.set("hostname", "vm")
        for name, value in {"log-stderr-level": "3", **settings}.items():
            self.attributes.set_command_line(name.replace("_", "-"), value)
        # Closed by close_files.
        stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        self.opened.append(stderr)
        self.stderr = stderr
        self.forwarded: list[bytes] = []
        self.log = BrokerLog(self.attributes, self.stderr)
        if rank is not None:
            self.log.initialize(rank, self.forwarded.append)

    def printed(self) -> str:
        self.stderr.seek(0)
        return re.sub(STAMP, "TIME", self.stderr.read())

    def texts(self) -> list[str]:
        return [decode_entry(line).text for line in self.log.lines()]


def remote(severity: int, text: str, rank: int = 3) -> bytes:
    timestamp = "2026-11-22T11:45:39.104527Z"
    return encode_entry(LogEntry(severity, 0, timestamp, str(rank), "logger", "1", text))


def test_before_the_rank_is_known_the_host_is_named() -> None:
    broker = Broker()
    broker.log.write(LOG_CRIT, "Config file error: x")
    broker.log.write(LOG_INFO, "boot: rank=0 size=1")
    assert broker.printed() == "TIME broker.crit[vm]: Config file error: x\n"
    assert broker.log.lines() == []


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("6", "<6>broker.info[vm]: boot\n<6>broker.info[0]: online\n"),
        ("7", "<6>broker.info[vm]: boot\n<7>broker.debug[vm]: b\n<6>broker.info[0]: online\n<7>broker.debug[0]: c\n"),
    ],
)
def test_the_level_of_stderr(level: str, expected: str) -> None:
    broker = Broker(log_stderr_mode="local", log_stderr_level=level)
    broker.log.write(LOG_INFO, "boot")
    broker.log.write(LOG_DEBUG, "b")
    broker.log.initialize(0, broker.forwarded.append)
    broker.log.write(LOG_INFO, "online")
    broker.log.write(LOG_DEBUG, "c")
    assert broker.printed() == expected


def test_defaults_are_registered() -> None:
    attributes = Broker(rank=0).attributes
    assert {name: attributes.get(name) for name in attributes.names() if name.startswith("log-")} == {
        "log-critical-level": "2",
        "log-forward-level": "3",
        "log-level": "7",
        "log-ring-size": "1024",
        "log-stderr-level": "3",
        "log-stderr-mode": "leader",
        "log-syslog-enable": "0",
        "log-syslog-level": "3",
    }


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("log-ring-size", "x", "log-ring-size: Invalid argument"),
        ("log-ring-size", "-1", "log-ring-size: Invalid argument"),
        ("log-ring-size", "4xx", "log-ring-size: Invalid argument"),
        ("log-ring-size", "", "log-ring-size: Invalid argument"),
        ("log-stderr-level", "9", "log-stderr-level: Invalid argument"),
        ("log-level", None, "log-level: Invalid argument"),
        ("log-syslog-enable", "2", "log-syslog-enable: value must be 0 or 1"),
        ("log-syslog-enable", "x", "getattr log-syslog-enable: Invalid argument"),
        ("log-stderr-mode", "foo", "getattr log-stderr-mode: Invalid argument"),
        ("log-stderr-mode", None, "getattr log-stderr-mode: Invalid argument"),
    ],
)
def test_bad_settings(name: str, value: str | None, text: str) -> None:
    broker = Broker()
    broker.attributes.set(name, value)
    with pytest.raises(FluxError) as raised:
        broker.log.initialize(0, broker.forwarded.append)
    assert (raised.value.errnum, raised.value.text) == (errno.EINVAL, text)
    broker.log.write(LOG_ERR, text)  # What the broker does with it: the early way still works.
    assert f"broker.err[vm]: {text}\n" in broker.printed()


def test_one_entry_for_each_line_of_a_text() -> None:
    broker = Broker(rank=0)
    broker.log.write(LOG_INFO, "one\ntwo\n\nthree\n", appname="linesplit")
    assert broker.texts() == ["one", "two", "three"]
    entry = decode_entry(broker.log.lines()[0])
    assert (entry.rank, entry.appname, entry.procid) == ("0", "linesplit", str(os.getpid()))


def test_the_ring_keeps_the_last_lines() -> None:
    broker = Broker(rank=0, log_ring_size="3")
    for number in range(5):
        broker.log.write(LOG_DEBUG, f"line {number}")
    assert broker.texts() == ["line 2", "line 3", "line 4"]
    assert broker.log.stats() == {"ring-used": 3, "count": 5, "local": 5, "remote": 0}
    broker.log.clear()
    assert broker.log.stats() == {"ring-used": 0, "count": 5, "local": 5, "remote": 0}


def test_a_ring_without_room() -> None:
    broker = Broker(rank=0, log_ring_size="0")
    followed: list[bytes] = []
    broker.log.add_follower(followed.append)
    broker.log.write(LOG_INFO, "gone")
    assert (broker.log.lines(), followed) == ([], [])
    assert broker.log.stats() == {"ring-used": 0, "count": 0, "local": 1, "remote": 0}


def test_log_level_keeps_lines_out_of_the_ring() -> None:
    broker = Broker(rank=0, log_level="4")
    broker.log.write(LOG_INFO, "quiet")
    broker.log.write(LOG_ERR, "loud")
    assert broker.texts() == ["loud"]


def test_a_line_ends_at_a_nul_as_its_reader_will_have_it() -> None:
    broker = Broker(rank=0)
    broker.log.append(remote(LOG_INFO, "\udcff\udcfe\udc82\0tail", rank=0))
    assert broker.texts() == ["\udcff\udcfe\udc82"]


def test_followers_get_each_line_that_enters_the_ring() -> None:
    broker = Broker(rank=0)
    broker.log.write(LOG_INFO, "before")
    first: list[bytes] = []
    second: list[bytes] = []
    broker.log.add_follower(first.append)
    broker.log.write(LOG_INFO, "one")
    broker.log.add_follower(second.append)
    broker.log.write(LOG_INFO, "two")
    assert first == broker.log.lines()[1:]
    assert second == broker.log.lines()[2:]


def test_the_leader_prints_what_reaches_it() -> None:
    broker = Broker(rank=0)
    broker.log.write(LOG_ERR, "mine")
    broker.log.write(LOG_INFO, "too quiet")
    broker.log.append(remote(LOG_ERR, "theirs"))
    assert broker.printed() == "TIME broker.err[0]: mine\nTIME logger.err[3]: theirs\n"
    assert broker.texts() == ["mine", "too quiet"]
    assert broker.log.stats() == {"ring-used": 2, "count": 2, "local": 2, "remote": 1}


def test_a_follower_broker_forwards_and_prints_only_what_is_critical() -> None:
    broker = Broker(rank=1)
    broker.log.write(LOG_CRIT, "dire")
    broker.log.write(LOG_ERR, "bad")
    broker.log.write(LOG_INFO, "fine")
    broker.log.append(remote(LOG_EMERG, "from below"))
    assert broker.printed() == "TIME broker.crit[1]: dire\n"
    assert [decode_entry(line).text for line in broker.forwarded] == ["dire", "bad", "from below"]
    assert broker.texts() == ["dire", "bad", "fine"]


def test_in_local_mode_each_broker_prints_its_own() -> None:
    leader = Broker(rank=0, log_stderr_mode="local")
    leader.log.append(remote(LOG_EMERG, "theirs"))
    leader.log.write(LOG_ERR, "mine")
    assert leader.printed() == "<3>broker.err[0]: mine\n"
    follower = Broker(rank=1, log_stderr_mode="local")
    follower.log.write(LOG_ERR, "mine")
    assert follower.printed() == "<3>broker.err[1]: mine\n"
    assert len(follower.forwarded) == 1


def test_a_level_below_zero_matches_nothing() -> None:
    broker = Broker(rank=1, log_forward_level="-1", log_critical_level="-1")
    broker.log.write(LOG_EMERG, "smurfs")
    assert (broker.printed(), broker.forwarded) == ("", [])


def test_what_is_no_log_line_is_printed_and_passed_on_as_it_came() -> None:
    leader = Broker(rank=0, log_stderr_level="6")
    leader.log.append(b"hello \xff")
    assert leader.printed() == "hello \udcff\n"
    assert leader.log.lines() == []
    follower = Broker(rank=1, log_forward_level="6")
    follower.log.append(b"hello \xff")
    assert follower.forwarded == [b"hello \xff"]


def test_the_leader_keeps_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("older\n")
    broker = Broker(rank=0, log_filename=str(path))
    broker.log.write(LOG_DEBUG, "mine")
    broker.log.append(remote(LOG_DEBUG, "theirs"))
    broker.log.close()
    broker.log.write(LOG_DEBUG, "late")
    content = re.sub(STAMP, "TIME", path.read_text())
    assert content == "older\nTIME broker.debug[0]: mine\nTIME logger.debug[3]: theirs\n"


def test_a_new_log_file_is_private(tmp_path: Path) -> None:
    Broker(rank=0, log_filename=str(tmp_path / "log")).log.close()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_other_ranks_keep_none(tmp_path: Path) -> None:
    broker = Broker(rank=1, log_filename=str(tmp_path / "log"))
    broker.log.write(LOG_ERR, "x")
    assert not (tmp_path / "log").exists()
    assert "log-filename" in broker.attributes
    assert broker.attributes.get("log-filename") is None


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    path = f"{tmp_path}/missing/log"
    broker = Broker(log_filename=path)
    with pytest.raises(FluxError) as raised:
        broker.log.initialize(0, broker.forwarded.append)
    assert raised.value.errnum == errno.ENOENT
    assert raised.value.text == f"Error opening logfile {path}: No such file or directory"


def test_stderr_level_changes_at_run_time() -> None:
    broker = Broker(rank=0)
    broker.log.write(LOG_INFO, "quiet")
    broker.log.set_attribute("log-stderr-level", "6")
    broker.log.write(LOG_INFO, "heard")
    broker.log.set_attribute("log-stderr-level", "-1")
    broker.log.write(LOG_ERR, "unheard")
    assert broker.printed() == "TIME broker.info[0]: heard\n"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("log-stderr-level", "8", "invalid level"),
        ("log-stderr-level", "x", "invalid level"),
        ("log-level", "3", "unknown log attribute"),
    ],
)
def test_set_attribute_refuses(name: str, value: str, text: str) -> None:
    with pytest.raises(FluxError) as raised:
        Broker(rank=0).log.set_attribute(name, value)
    assert (raised.value.errnum, raised.value.text) == (errno.EINVAL, text)


def test_a_closed_or_broken_stderr_is_survived() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:  # Closing it would raise if a line were left in its buffer.
        log = BrokerLog(Attributes(), broken)
        log.initialize(0, lambda line: None)
        log.write(LOG_ERR, "lost")
    log.write(LOG_ERR, "lost too")
    assert len(log.lines()) == 2


def test_a_stream_of_text_only() -> None:
    stream = io.StringIO()
    log = BrokerLog(Attributes(), stream)
    log.initialize(0, lambda line: None)
    log.append(remote(LOG_ERR, "\udcff", rank=0))
    assert stream.getvalue().endswith("logger.err[0]: \\xff\n")


def test_syslog(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, str]] = []
    monkeypatch.setattr(syslog, "openlog", lambda ident, options, facility: None)
    monkeypatch.setattr(syslog, "syslog", lambda severity, text: sent.append((severity, text)))
    broker = Broker(rank=0, log_syslog_enable="1", log_syslog_level="6")
    broker.log.write(LOG_DEBUG, "quiet")
    broker.log.write(LOG_INFO, "early")
    broker.attributes.set("jobid-path", "/" + "x" * 40)
    broker.log.append(remote(LOG_ERR, "theirs \udcff"))
    broker.log.append(b"no log line")
    texts = [text.partition(" ") for _, text in sent]
    assert [severity for severity, _ in sent] == [LOG_INFO, LOG_ERR, LOG_INFO]
    assert [text for _, _, text in texts] == [
        "broker.info[0]: early",
        "logger.err[3]: theirs \\udcff",
        "no log line",
    ]
    assert texts[0][0].endswith("@unknown")
    assert texts[1][0].endswith("xx...")
    assert len(texts[1][0]) == 31
