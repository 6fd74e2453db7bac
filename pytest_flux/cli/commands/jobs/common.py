"""Parts that commands about jobs share: ids, users, signals, and answers to requests."""

from __future__ import annotations

import os

from pytest_flux.cli.command import CommandError, Context, reason
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flux.client import Rpc


ANY_USER = 0xFFFFFFFF
LEVELS = ("FATAL", "FATAL", "FATAL", "ERROR", " WARN", "", "DEBUG", "TRACE")
"""How messages of the job shell are marked, by level (RFC 24)."""


def parse_id(text: str) -> int:
    """A job id in any form. Raises CommandError."""
    try:
        return parse_fluid(text)
    except ValueError:
        raise CommandError(f'error parsing jobid: "{text}"') from None


def parse_user(text: str) -> int:
    """A user's name or number, or "all". Raises CommandError."""
    if text == "all":
        return ANY_USER
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        if text.isascii() and text.isdigit() and int(text) <= ANY_USER:
            return int(text)
        raise CommandError(f"unknown user {text}") from None


def parse_signal_name(text: str, command: str) -> int:
    """A signal for `flux job kill` or its like. Raises CommandError."""
    try:
        return parse_signal(text)
    except ValueError:
        raise CommandError(f"{command}: Invalid signal {text}") from None


def own_user() -> int:
    """Our own number."""
    return os.getuid()


def collect(calls: Iterable[tuple[str, Rpc]], context: Context) -> int:
    """Take the answers to one request for each job, and report those that are errors; the exit code."""
    status = 0
    for name, call in calls:
        try:
            call.get()
        except FluxError as error:
            context.log(f"{name}: {reason(error)}")
            status = 1
    return status


def parse_signal(text: str) -> int:
    """The number of a signal: ``15``, ``TERM``, ``SIGTERM``. Raises ValueError."""
    if text.isdigit():
        if not int(text):
            raise ValueError("signal must be > 0")
        return int(text)
    import signal

    for name in (text, f"SIG{text}"):
        found = getattr(signal, name, None)
        if isinstance(found, signal.Signals):
            return int(found)
    raise ValueError(f"signal '{text}' is invalid")
