"""Log lines as brokers and clients exchange them: RFC 5424 section 6, as flux-core writes it.

``log.append`` requests carry ``<PRI>1 TIMESTAMP HOSTNAME APPNAME PROCID MSGID STRUCTURED-DATA TEXT``, and
``log.dmesg`` responses return it. Flux puts the rank of the sender into HOSTNAME, leaves MSGID and STRUCTURED-DATA
empty, and exchanges severity and facility in PRI: PRI is severity * 8 + facility, although RFC 5424 section 6.2.1 has
facility * 8 + severity. So an informational line starts with ``<48>``.
"""

from __future__ import annotations

import re
import time

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.severity import severity_name
from pytest_flux.record import NamedTuple

#: No header is longer than this; it is the sum of the limits of RFC 5424 section 6.
MAX_HEADER = 508

# The limits of single fields that a sender can fill freely.
_MAX_HOSTNAME = 255
_MAX_APPNAME = 48
_MAX_PROCID = 128

_NIL = "-"
_HEADER = re.compile(r"<([0-9]{1,5})>[0-9]{1,3} ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+) [^ ]+ ")
_NEWLINES = re.compile(r"[\r\n]+")
# A header field must not have these: blanks and control characters would move the fields after it.
_UNFIT = re.compile(r"[\x00-\x20\x7f]")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?Z", re.ASCII)


class LogEntry(NamedTuple):
    """One log line.

    ``timestamp`` is UTC as :func:`format_timestamp` writes it, or ``-``. ``rank`` is a decimal rank, or a host
    name if the sender did not know its rank yet. Bytes of ``text`` that are not UTF-8 are surrogates, as from
    ``os.fsdecode``, so that a line can be passed on unchanged.
    """

    severity: int
    facility: int
    timestamp: str
    rank: str
    appname: str
    procid: str
    text: str


def format_timestamp(now: float) -> str:
    """``now``, in seconds since the epoch, as ``2026-11-22T11:45:39.104527Z``."""
    seconds, microseconds = divmod(round(now * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{microseconds:06d}Z"


def split_text(text: str) -> list[str]:
    """The lines of a text that are logged as one entry each.

    Blank lines and the end of the last line are dropped; an empty text is still one entry. (A text that begins
    with a line end gives an empty entry first: flux-core splits only after it has written the first one.)
    """
    return _NEWLINES.split(text.rstrip("\r\n"))


def encode_entry(entry: LogEntry) -> bytes:
    """The line for ``entry``. Header fields are cut to the format's limits; line ends after the text are dropped."""
    header = (
        f"<{entry.severity << 3 | entry.facility & 7}>1 {_field(entry.timestamp, 32)}"
        f" {_field(entry.rank, _MAX_HOSTNAME)} {_field(entry.appname, _MAX_APPNAME)}"
        f" {_field(entry.procid, _MAX_PROCID)} {_NIL} {_NIL} "
    )
    return (header + entry.text.rstrip("\r\n")).encode("utf-8", "surrogateescape")


def decode_entry(line: bytes | str) -> LogEntry:
    """The parts of ``line``.

    Raises ProtocolError if it does not begin with a whole header: then it is only text.
    """
    text = line.decode("utf-8", "surrogateescape") if isinstance(line, bytes) else line
    match = _HEADER.match(text)
    if match is None:
        raise ProtocolError("not a log line", ascii(text[:80]))
    if match.end() > MAX_HEADER:
        raise ProtocolError(f"log line with a header of more than {MAX_HEADER} bytes", ascii(text[:80]))
    priority = int(match[1])
    start = _after_structured_data(text, match.end())
    return LogEntry(priority >> 3, priority & 7, match[2], match[3], match[4], match[5], text[start:])


def format_stderr(entry: LogEntry, *, local: bool) -> str:
    """``entry`` as a broker prints it, without a line end.

    ``Nov 22 11:45:39.104527 UTC 2026 broker.info[0]: text``, in the local time zone; or, for ``local``, the form
    that systemd's journal takes from a standard error, which adds the time itself: ``<6>broker.info[0]: text``.
    """
    body = f"{entry.appname}.{severity_name(entry.severity)}[{entry.rank}]: {entry.text}"
    return f"<{entry.severity}>{body}" if local else f"{_local_time(entry.timestamp)} {body}"


def _field(value: str, limit: int) -> str:
    return _UNFIT.sub("_", value)[:limit] or _NIL


def _after_structured_data(text: str, start: int) -> int:
    """Where the message begins: after the first space outside of brackets (RFC 5424 section 6.3)."""
    depth = 0
    for position in range(start, len(text)):
        character = text[position]
        if character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif character == " " and depth == 0:
            return position + 1
    raise ProtocolError("log line without an end of its structured data", ascii(text[:80]))


def _local_time(timestamp: str) -> str:
    match = _TIMESTAMP.fullmatch(timestamp)
    if match is None:
        return timestamp
    # Imported here, because the launcher imports this module at every start.
    from datetime import datetime, timezone

    try:
        local = datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc).astimezone()
    except (ValueError, OverflowError, OSError):  # a month 13; a year that the C library cannot place
        return timestamp
    microseconds = (match[2] or "").ljust(6, "0")
    return f"{local:%b %d %H:%M:%S}.{microseconds} {local:%Z %Y}"
