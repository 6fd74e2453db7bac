"""Parse ids, users, states and signals, and collect answers, for commands about jobs."""

from __future__ import annotations

import os

from pytest_flux.cli.command import CommandError, Context, reason
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import (
    FLAG_DEBUG,
    FLAG_NOVALIDATE,
    FLAG_WAITABLE,
    URGENCY_DEFAULT,
    URGENCY_EXPEDITE,
    URGENCY_HOLD,
    parse_state,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pytest_flux.client import Rpc
    from pytest_flux.options import Options

ANY_USER = 0xFFFFFFFF
SUBMISSION_FLAGS = {"debug": FLAG_DEBUG, "waitable": FLAG_WAITABLE, "novalidate": FLAG_NOVALIDATE}
URGENCIES = {"hold": URGENCY_HOLD, "default": URGENCY_DEFAULT, "expedite": URGENCY_EXPEDITE}
_LEVELS = ("FATAL", "FATAL", "FATAL", "ERROR", " WARN", "", "DEBUG", "TRACE")
"""The marks of messages of the job shell, by level (RFC 24)."""


def parse_id(text: str) -> int:
    """Parse a job id in any form. Raises CommandError."""
    try:
        return parse_fluid(text)
    except ValueError:
        raise CommandError(f'error parsing jobid: "{text}"') from None


def parse_user(text: str) -> int:
    """Parse the name or number of a user, or "all". Raises CommandError."""
    if text == "all":
        return ANY_USER
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        if text.isascii() and text.isdigit() and int(text) <= ANY_USER:
            return int(text)
        raise CommandError(f"unknown user {text}") from None


def parse_signal(text: str) -> int:
    """Parse a signal: ``15``, ``TERM``, ``SIGTERM``. Raises ValueError."""
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


def parse_signal_name(text: str, command: str) -> int:
    """Parse a signal for `flux job kill` or `killall`. Raises CommandError."""
    try:
        return parse_signal(text)
    except ValueError:
        raise CommandError(f"{command}: Invalid signal {text}") from None


def user_option(options: Options) -> int:
    """Return the user that ``--user`` names, by default our own. Raises CommandError."""
    return parse_user(options.get("user") or "") if options.has("user") else os.getuid()


def user_argument(text: str) -> int:
    """Return a user as :func:`parse_user` does, but as Flux's Python programs take it: also ``+UID``.

    Raises ValueError, with their error.
    """
    number = text.removeprefix("+")
    try:
        return parse_user(number if number.isdecimal() else text)
    except CommandError:
        raise ValueError(f"Invalid user {text} specified") from None


def parse_states(names: Iterable[str]) -> int:
    """Return the mask of job states with these names. Raises CommandError."""
    states = 0
    for name in names:
        try:
            states |= parse_state(name)
        except ValueError:
            raise CommandError(f"error parsing --states: {name} is unknown") from None
    return states


def collect(calls: Iterable[tuple[str, Rpc]], context: Context) -> int:
    """Wait for the answer about each job, report errors, return the exit code."""
    status = 0
    for name, call in calls:
        try:
            call.get()
        except FluxError as error:
            context.log(f"{name}: {reason(error)}")
            status = 1
    return status


def format_shell_log(context: dict[str, Any], origin: str, place: str = "") -> str:
    """Format a message of the job shell: who logs, the level, the component, the place in the source, the text."""
    parts = [origin, _LEVELS[context["level"]], context.get("component") or "", place]
    return ": ".join([*(part for part in parts if part), context["message"]]) + "\n"
