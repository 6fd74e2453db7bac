"""`flux dmesg` and `flux logger`: read the broker's log, clear it, write to it."""

from __future__ import annotations

import errno
import os
import sys
import time

from pytest_flux.cli.command import COLOR, Command, CommandError, Context, explaining, reason, wants_color
from pytest_flux.cli.event_format import HumanTimes
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import SEVERITY_NAMES, severity_name
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

DMESG_OPTIONS = (
    Option("clear", "C", usage="Clear the log, print nothing"),
    Option("read-clear", "c", usage="Clear the log after printing it"),
    Option("follow", "f", usage="Go on with new messages as they are logged"),
    Option("new", "n", usage="Leave out what was logged before"),
    Option("human", "H", usage="Print times as people like them"),
    Option("delta", "d", usage="With --human: time since the message before"),
    COLOR,
)

_RESET = "\x1b[0m"
_NAME = "\x1b[33m"
_TIME = "\x1b[32m"
_TIME_BREAK = "\x1b[1m\x1b[32m"
_COLORS = ("\x1b[7m\x1b[31m", "\x1b[7m\x1b[31m", "\x1b[1m\x1b[31m", "\x1b[31m", "\x1b[1m", "", "", "\x1b[34m")


class Entry(NamedTuple):
    """The parts of one line of the log. ``stamp`` is its time as text."""

    level: int
    stamp: str
    rank: int
    appname: str
    text: str


def parse_entry(line: str) -> Entry | None:
    """Parse a line of RFC 5424 as Flux writes it (see ``format_header``). Return None for any other text."""
    priority, bracket, rest = line.partition(">")
    fields = rest.split(" ", 6)
    if not bracket or not priority.startswith("<") or not priority[1:].isdecimal() or len(fields) < 7:
        return None
    _, stamp, host, appname, _, _, body = fields
    _, space, text = _split_structured_data(body)
    if not space:
        return None
    return Entry(int(priority[1:]) >> 3, stamp, int(host) if host.isdecimal() else 0, appname, text)


def _split_structured_data(body: str) -> tuple[str, str, str]:
    depth = 0
    for index, letter in enumerate(body):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == " " and depth == 0:
            return body[:index], " ", body[index + 1 :]
    return body, "", ""


class Printer:
    """Formats lines as the options say. A time for people depends on the line before."""

    def __init__(self, *, color: bool, human: bool, delta: bool) -> None:
        self._color = color
        self._human = human
        self._times = HumanTimes(delta=delta)

    def format(self, line: str) -> str:
        """Return the line to print, without a newline."""
        entry = parse_entry(line)
        if entry is None:
            return line
        stamp = self._format_human(entry.stamp) if self._human else self._paint(_TIME, iso_time(entry.stamp))
        level = severity_name(entry.level)
        name = self._paint(_NAME, f"{entry.appname}.{level}[{entry.rank}]")
        start = _COLORS[entry.level] if self._color and entry.level < len(_COLORS) else ""
        return f"{stamp} {name}: {start}{entry.text}{_RESET if self._color else ''}"

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._color else text

    def _format_human(self, stamp: str) -> str:
        parsed = parse_stamp(stamp)
        if parsed is None:
            return self._paint(_TIME, f"[{stamp}]")
        text, is_new_minute = self._times.format(sum(parsed))
        return self._paint(_TIME_BREAK if is_new_minute else _TIME, text)


def parse_stamp(stamp: str) -> tuple[int, float] | None:
    """Parse ``2026-11-22T11:53:07.508577Z``. Return whole seconds since the epoch and the fraction, or None."""
    import calendar

    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    try:
        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
        return seconds, float(f"0.{fraction}") if fraction else 0.0
    except ValueError:
        return None


def iso_time(stamp: str) -> str:
    """Convert a time to the local time zone, with its offset. Leave it as it is if that is UTC."""
    parsed = parse_stamp(stamp)
    if parsed is None:
        return stamp
    local = time.localtime(parsed[0])
    offset = time.strftime("%z", local)
    if offset == "+0000":
        return stamp
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{parsed[1] * 1e6:06.0f}{offset[:3]}:{offset[3:]}"


def dmesg(options: Options, context: Context) -> int:
    """Print the log, clear it, or both."""
    if options.arguments:
        raise CommandError("flux-dmesg accepts no free arguments")
    if options.has("delta") and not options.has("human"):
        raise CommandError("--delta can only be used with --human")
    printer = Printer(color=wants_color(options, context), human=options.has("human"), delta=options.has("delta"))
    with context.open() as flux:
        if not options.has("clear"):
            _print_log(flux, printer, follow=options.has("follow"), new=options.has("new"))
        if options.has("clear") or options.has("read-clear"):
            with explaining("log.clear"):
                flux.rpc("log.clear").get()
    return 0


def _print_log(flux: Flux, printer: Printer, *, follow: bool, new: bool) -> None:
    rpc = flux.rpc("log.dmesg", {"follow": follow, "nobacklog": new}, streaming=True)
    try:
        while True:
            if not rpc.is_ready():
                sys.stdout.flush()
            print(printer.format(rpc.get_text()))
    except FluxError as error:
        if error.errnum != errno.ENODATA:
            raise CommandError(f"log.dmesg: {reason(error)}") from None


LOGGER_OPTIONS = (
    Option("severity", "s", "LEVEL", usage="emerg, alert, crit, err, warning, notice (default), info or debug"),
    Option("appname", "n", "NAME", usage="Who says so (default: logger)"),
)

# flux-core cuts names to the limits of RFC 5424.
_MAX_HOSTNAME = 255
_MAX_APPNAME = 48


def logger(options: Options, context: Context) -> int:
    """Log the words of the command line as one message, or each line of stdin."""
    severity = (options.get("severity", "notice") or "").lower()
    if severity not in SEVERITY_NAMES:
        raise CommandError("invalid severity: Use emerg|alert|crit|err|warning|notice|info|debug")
    if options.arguments:
        text = os.fsencode(" ".join(options.arguments))
    else:
        text = sys.stdin.buffer.read()
    appname = options.get("appname", "logger") or "logger"
    with context.open() as flux:
        for line in text.replace(b"\r", b"\n").split(b"\n"):
            if line:
                header = format_header(SEVERITY_NAMES.index(severity), flux.rank, appname, time.time_ns())
                flux.post("log.append", header.encode("utf-8", "surrogateescape") + line, flags=0)
    return 0


def format_header(level: int, rank: int, appname: str, now: int) -> str:
    """Format the header of a message; ``now`` is nanoseconds since the epoch.

    It is that of RFC 5424 except for the priority: flux-core writes severity * 8 + facility, not the reverse.
    """
    seconds, rest = divmod(now, 10**9)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    host = str(rank)[:_MAX_HOSTNAME]
    return f"<{level << 3}>1 {stamp}.{rest // 1000:06d}Z {host} {appname[:_MAX_APPNAME]} {os.getpid()} - - "


COMMANDS = (
    Command(
        "flux dmesg",
        dmesg,
        usage="[OPTIONS...]",
        summary="Print the log of the broker, or clear it",
        options=DMESG_OPTIONS,
    ),
    Command(
        "flux-logger",
        logger,
        usage="[--severity LEVEL] [--appname NAME] message ...",
        options=LOGGER_OPTIONS,
        permute=True,
    ),
)
