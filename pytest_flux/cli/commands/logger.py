"""`flux logger`: write to the log of the broker."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.cli.commands.loglevel import LEVELS
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

OPTIONS = (
    Option("severity", "s", "LEVEL", usage="emerg, alert, crit, err, warning, notice (default), info or debug"),
    Option("appname", "n", "NAME", usage="Who says so (default: logger)"),
)

# Limits of RFC 5424, which flux-core cuts to.
_MAX_HOSTNAME = 255
_MAX_APPNAME = 48


def run(options: Options, context: Context) -> int:
    """Log the words of the command line as one message, or each line of stdin."""
    severity = (options.get("severity", "notice") or "").lower()
    if severity not in LEVELS:
        raise CommandError("invalid severity: Use emerg|alert|crit|err|warning|notice|info|debug")
    if options.arguments:
        text = os.fsencode(" ".join(options.arguments))
    else:
        text = sys.stdin.buffer.read()
    appname = options.get("appname", "logger") or "logger"
    with context.open() as flux:
        for line in text.replace(b"\r", b"\n").split(b"\n"):
            if line:
                header = format_header(LEVELS.index(severity), flux.rank, appname, time.time_ns())
                flux.post("log.append", header.encode("utf-8", "surrogateescape") + line, flags=0)
    return 0


def format_header(level: int, rank: int, appname: str, now: int) -> str:
    """What stands before a message in the log; ``now`` is nanoseconds since the epoch.

    RFC 5424, but for the priority: flux-core writes severity times eight plus facility, not the reverse.
    """
    seconds, rest = divmod(now, 10**9)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    host = str(rank)[:_MAX_HOSTNAME]
    return f"<{level << 3}>1 {stamp}.{rest // 1000:06d}Z {host} {appname[:_MAX_APPNAME]} {os.getpid()} - - "


COMMAND = Command(
    "flux-logger", run, usage="[--severity LEVEL] [--appname NAME] message ...", options=OPTIONS, permute=True
)
