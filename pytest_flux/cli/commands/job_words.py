"""The words that subcommands of `flux job` take: ids, users, states, signals."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import CommandError, Context, reason
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flux.client import Rpc

ANY_USER = 0xFFFFFFFF


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
    from pytest_flux.cli.signals import parse_signal

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
