"""The log of one broker: a ring of lines, and the places to which they are copied.

The rules are flux-core 0.88's (flux-broker-attributes(7), LOGGING): the broker's own lines up to
``log-level`` enter the ring; ``log-critical-level``, ``log-stderr-level`` and ``log-stderr-mode`` decide about
standard error; lines up to ``log-forward-level`` travel towards the leader, which alone writes ``log-filename``.

Nothing here may log an error: if writing a line fails, the line is lost. Neither a full disk nor a closed pipe may
stop a broker.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import deque
from collections.abc import Callable

from pytest_flux.broker.attributes import Attributes, parse_integer
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import LOG_CRIT, LOG_DEBUG, LOG_ERR, LOG_INFO, severity_name
from pytest_flux.protocol.stdlog import (
    LogEntry,
    decode_entry,
    encode_entry,
    format_stderr,
    format_timestamp,
    split_text,
)
from pytest_flux.reactor.clock import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TextIO

_RING_SIZE: Final = 1024
_INVALID: Final = os.strerror(errno.EINVAL)


class BrokerLog:
    """The log of one broker.

    It can be written to at once: until :meth:`initialize`, when the rank is not known yet, lines are only printed,
    with the host name in the rank's place. ``stderr`` is the process's standard error unless given.
    """

    def __init__(self, attributes: Attributes, stderr: TextIO | None = None, clock: Clock | None = None) -> None:
        self._attributes = attributes
        self._clock = Clock() if clock is None else clock
        self._stderr = stderr
        self._rank: int | None = None
        self._forward: Callable[[bytes], None] | None = None
        self._level = self._stderr_level = self._critical_level = LOG_DEBUG
        self._forward_level = self._syslog_level = LOG_DEBUG
        self._local = False
        self._ring: deque[bytes] = deque()
        self._file: int | None = None
        self._syslog: SystemLog | None = None
        self._followers: list[Callable[[bytes], None]] = []
        self._count = self._received_local = self._received_remote = 0

    def initialize(self, rank: int, forward: Callable[[bytes], None]) -> None:
        """Start the log proper, with the ``log-*`` attributes, which get their defaults if they are not set.

        ``forward`` sends a line to the parent; rank 0 never calls it. Raises FluxError if an attribute's value
        is invalid or the log file cannot be opened. Flux prints its text as an error, then ``Error initializing
        logging: `` and the errno's text as critical: both still in the early format, because the log is unchanged.
        """
        attributes = self._attributes
        if rank > 0:
            # Only the leader writes a file; elsewhere the attribute exists, but is empty.
            attributes.delete("log-filename")
            attributes.set("log-filename", None)
        self._level = self._register_level("log-level", LOG_DEBUG)
        self._stderr_level = self._register_level("log-stderr-level", LOG_ERR)
        self._forward_level = self._register_level("log-forward-level", LOG_ERR)
        self._critical_level = self._register_level("log-critical-level", LOG_CRIT)
        self._syslog_level = self._register_level("log-syslog-level", LOG_ERR)
        ring_size = self._register_ring_size()
        use_syslog = self._register_syslog_enable()
        mode = attributes.setdefault("log-stderr-mode", "leader")
        if mode not in {"leader", "local"}:
            raise FluxError(errno.EINVAL, f"getattr log-stderr-mode: {_INVALID}")
        filename = attributes.get("log-filename")
        if filename is not None:
            self._file = open_log_file(filename)
        self._local = mode == "local"
        self._ring = deque(maxlen=ring_size)
        self._syslog = SystemLog(attributes) if use_syslog else None
        self._rank = rank
        self._forward = forward

    def write(self, severity: int, text: str, appname: str = "broker") -> None:
        """Log a message of this broker; each of its lines is an entry."""
        rank = self._attributes.get("hostname") if self._rank is None else str(self._rank)
        timestamp = format_timestamp(self._clock.time())
        for line in split_text(text):
            # Ask for the pid each time: the broker may have been forked since the last line.
            entry = LogEntry(severity, 0, timestamp, rank or "-", appname, str(os.getpid()), line)
            self.append(encode_entry(entry))

    def append(self, line: bytes) -> None:
        """Take one line: this broker's own, or what a ``log.append`` request brings from a client or a child."""
        line = line.partition(b"\0")[0]
        entry = _decode(line)
        if self._rank is None:
            self._append_early(line, entry)
            return
        severity = LOG_INFO if entry is None else entry.severity
        printed = False
        if entry is not None and entry.rank == str(self._rank):
            self._received_local += 1
            if severity <= self._level:
                self._add_to_ring(line)
            printed = severity <= self._critical_level or (self._local and severity <= self._stderr_level)
        else:
            self._received_remote += 1
        if printed:
            self._print(line, entry, local=self._local)
        if self._rank == 0:
            if self._file is not None:
                write_all(self._file, format_line(line, entry, local=False))
            if not printed and not self._local and severity <= self._stderr_level:
                self._print(line, entry, local=False)
        elif self._forward is not None and severity <= self._forward_level:
            self._forward(line)
        if self._syslog is not None and severity <= self._syslog_level:
            self._syslog.write(severity, line, entry)

    def lines(self) -> list[bytes]:
        """The ring, oldest line first."""
        return list(self._ring)

    def clear(self) -> None:
        """Empty the ring."""
        self._ring.clear()

    def add_follower(self, callback: Callable[[bytes], None]) -> None:
        """Call ``callback`` with each line that enters the ring."""
        self._followers.append(callback)

    def set_attribute(self, name: str, value: str) -> None:
        """What the ``log.setattr`` request does. Raises FluxError(EINVAL).

        flux-core takes a value that is not a number for 0; here it is refused like one above 7.
        """
        if name != "log-stderr-level":
            raise FluxError(errno.EINVAL, "unknown log attribute")
        level = parse_integer(value)
        if level is None or level > LOG_DEBUG:
            raise FluxError(errno.EINVAL, "invalid level")
        self._stderr_level = level

    def stats(self) -> dict[str, int]:
        """The answer of ``log.stats-get``: lines in the ring now and ever, our own lines and those of others."""
        return {
            "ring-used": len(self._ring),
            "count": self._count,
            "local": self._received_local,
            "remote": self._received_remote,
        }

    def close(self) -> None:
        """Close the log file. Lines are still accepted, because a broker logs until it exits."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append_early(self, line: bytes, entry: LogEntry | None) -> None:
        try:
            level = self._attributes.integer("log-stderr-level")
        except FluxError:
            level = None
        # A level that is not set yet, or that is invalid, hides nothing.
        if entry is None or level is None or level > LOG_DEBUG or entry.severity <= level:
            self._print(line, entry, local=self._attributes.get("log-stderr-mode") == "local")

    def _add_to_ring(self, line: bytes) -> None:
        if self._ring.maxlen == 0:
            return
        self._ring.append(line)
        self._count += 1
        for callback in self._followers:
            try:
                callback(line)
            except Exception:  # noqa: BLE001 - logging it would lead here again
                continue

    def _print(self, line: bytes, entry: LogEntry | None, *, local: bool) -> None:
        stream: TextIO | None = self._stderr or sys.stderr
        if stream is not None:
            write_stream(stream, format_line(line, entry, local=local))

    def _register_level(self, name: str, default: int) -> int:
        self._attributes.setdefault(name, str(default))
        level = self._attributes.integer(name)
        # Below zero is valid: no message is that severe.
        if level is None or not -(2**31) <= level <= LOG_DEBUG:
            raise FluxError(errno.EINVAL, f"{name}: {_INVALID}")
        return level

    def _register_ring_size(self) -> int:
        self._attributes.setdefault("log-ring-size", str(_RING_SIZE))
        size = self._attributes.integer("log-ring-size")
        if size is None or size < 0:
            raise FluxError(errno.EINVAL, f"log-ring-size: {_INVALID}")
        return size

    def _register_syslog_enable(self) -> bool:
        enable = parse_integer(self._attributes.setdefault("log-syslog-enable", "0"))
        if enable is None:
            raise FluxError(errno.EINVAL, f"getattr log-syslog-enable: {_INVALID}")
        if enable not in {0, 1}:
            raise FluxError(errno.EINVAL, "log-syslog-enable: value must be 0 or 1")
        return enable == 1


def _decode(line: bytes) -> LogEntry | None:
    try:
        return decode_entry(line)
    except ProtocolError:
        return None


class SystemLog:
    """The system's log. ``user@jobid-path`` goes before each line: many instances may share one syslog."""

    def __init__(self, attributes: Attributes) -> None:
        import pwd
        import syslog

        self._attributes = attributes
        try:
            self._user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            self._user = "unknown"
        self._send = syslog.syslog
        syslog.openlog("flux", syslog.LOG_NDELAY | syslog.LOG_PID, syslog.LOG_USER)

    def write(self, severity: int, line: bytes, entry: LogEntry | None) -> None:
        """Send a line; ``entry`` is the decoded line, None if it is not a log line."""
        if entry is None:
            text = line.decode("utf-8", "backslashreplace")
        else:
            text = f"{entry.appname}.{severity_name(entry.severity)}[{entry.rank}]: {entry.text}"
        # Surrogates stand for bytes that are not text; syslog takes text only.
        text = text.encode("utf-8", "backslashreplace").decode()
        self._send(severity & 7, f"{self._prefix()} {text}")

    def _prefix(self) -> str:
        prefix = f"{self._user}@{self._attributes.get('jobid-path') or 'unknown'}"
        return prefix if len(prefix) < 32 else prefix[:28] + "..."


def format_line(line: bytes, entry: LogEntry | None, *, local: bool) -> bytes:
    """A line as it is printed; anything but a log line is printed unchanged."""
    if entry is None:
        return line + b"\n"
    return format_stderr(entry, local=local).encode("utf-8", "surrogateescape") + b"\n"


def open_log_file(path: str) -> int:
    """A descriptor that appends to the file ``log-filename``. Raises FluxError."""
    try:
        return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        number = error.errno or errno.EIO
        raise FluxError(number, f"Error opening logfile {path}: {os.strerror(number)}") from None


def write_stream(stream: TextIO, data: bytes) -> None:
    """Print a line with one write: the brokers of an instance share their standard error.

    It bypasses the stream's buffer: a line that cannot be written would stay there and fail again when Python exits.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no file beneath: a stand-in for a stream, under a test or a debugger
        descriptor = -1
    try:
        if descriptor < 0:
            stream.write(data.decode("utf-8", "backslashreplace"))
        stream.flush()
    except (OSError, ValueError):
        pass
    if descriptor >= 0:
        write_all(descriptor, data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write as much as possible."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass
