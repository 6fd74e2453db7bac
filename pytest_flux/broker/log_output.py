"""Writing log lines out: to standard error, to a file, to the system's log.

What fails here is lost: neither a full disk nor a reader that has gone may stop a broker.
"""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.attributes import Attributes
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import severity_name
from pytest_flux.protocol.stdlog import LogEntry, format_stderr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


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
        """Send a line, which is ``entry`` unless it is no log line."""
        if entry is None:
            text = line.decode("utf-8", "backslashreplace")
        else:
            text = f"{entry.appname}.{severity_name(entry.severity)}[{entry.rank}]: {entry.text}"
        # Surrogates stand for bytes that are no text; syslog takes text only.
        text = text.encode("utf-8", "backslashreplace").decode()
        self._send(severity & 7, f"{self._prefix()} {text}")

    def _prefix(self) -> str:
        prefix = f"{self._user}@{self._attributes.get('jobid-path') or 'unknown'}"
        return prefix if len(prefix) < 32 else prefix[:28] + "..."


def format_line(line: bytes, entry: LogEntry | None, *, local: bool) -> bytes:
    """A line as it is printed; one that is no log line is printed as it came."""
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

    It goes past the stream's buffer, where it would stay if the reader is gone, to fail again when Python exits.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no file beneath: what stands in for a stream under a test or a debugger
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
    """Write, as far as that goes."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass
