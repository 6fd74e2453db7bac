"""`flux clock`: show and move the time of an instance started with ``flux-start --clock`` (not in flux-core)."""

from __future__ import annotations

import errno

from pytest_flux.cli.command import Command, CommandError, Context, reason
from pytest_flux.cli.moment import parse_moment
from pytest_flux.options import Option
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

_NO_CLOCK = (
    "this instance has the time of the system, which nobody can move"
    " (start it with: flux-start --broker=embedded --clock=manual)"
)


def _ask(flux: Flux, method: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    rpc = flux.rpc(f"clock.{method}", payload or {}, nodeid=0)
    try:
        return rpc.get()
    except FluxError as error:
        if error.errnum == errno.ENOSYS:
            raise CommandError(_NO_CLOCK) from None
        raise CommandError(reason(error)) from None


def _print_time(seconds: float, *, raw: bool) -> None:
    if raw:
        print(f"{seconds:.6f}")
        return
    from datetime import datetime, timezone

    print(datetime.fromtimestamp(seconds, timezone.utc).isoformat())


def now(options: Options, context: Context) -> int:
    """Print the time."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        _print_time(_ask(flux, "now")["now"], raw=options.has("raw"))
    return 0


def advance(options: Options, context: Context) -> int:
    """Move time, and print it."""
    if len(options.arguments) != 1 and not options.has("next"):
        raise context.command.usage_error()
    with context.open() as flux:
        answer = _ask(flux, "step") if options.has("next") else _advance(flux, options.arguments[0])
        if options.has("next") and not answer["stepped"]:
            raise CommandError("nothing is due: the instance waits for jobs or commands, not for time")
        _print_time(answer["now"], raw=options.has("raw"))
    return 0


def _advance(flux: Flux, text: str) -> dict[str, Any]:
    try:
        return _ask(flux, "advance", {"seconds": parse_duration(text.removeprefix("+"))})
    except ProtocolError:
        pass
    try:
        moment = parse_moment(text, _ask(flux, "now")["now"])
    except ValueError:
        raise CommandError(
            f"{text}: a duration such as 8h, or a time such as 2030-01-31T12:00, is expected"
        ) from None
    return _ask(flux, "advance", {"to": moment})


def mode(options: Options, context: Context) -> int:
    """Print the mode, or change it."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    with context.open() as flux:
        if options.arguments:
            _ask(flux, "mode", {"mode": options.arguments[0]})
        else:
            print(_ask(flux, "now")["mode"])
    return 0


_RAW = Option("raw", "r", usage="Print seconds since the epoch, as in event logs")

COMMANDS = (
    Command(
        "flux clock",
        usage="now|advance|mode",
        summary="Show or move the time of the instance. This command is pytest-flux's: flux-core has none.",
        subcommands=(
            Command("flux clock now", now, options=(_RAW,), summary="Print the time"),
            Command(
                "flux clock advance",
                advance,
                usage="[OPTIONS] DURATION|TIME",
                options=(Option("next", "n", usage="To the next moment at which something is due"), _RAW),
                summary="Let time pass, and return when all that became due has happened",
            ),
            Command(
                "flux clock mode",
                mode,
                usage="[manual|auto]",
                summary="Print the mode, or change it: time stands still (manual), or jumps to what is due (auto)",
            ),
        ),
    ),
)
