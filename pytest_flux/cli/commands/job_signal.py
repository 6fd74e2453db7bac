"""`flux job kill`, `raise` and their like: signals and exceptions, for some jobs or for many."""

from __future__ import annotations

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.job_words import collect, own_user, parse_id, parse_signal_name, parse_user
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import ACTIVE, INACTIVE, parse_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

_SIGNAL = Option("signal", "s", "SIG", usage="Send signal SIG (default SIGTERM)")
_USER = Option("user", "u", "USER", usage="Of this user, or 'all' (instance owner only)")
_FORCE = Option("force", "f", usage="Confirm the command")
_MESSAGE = Option("message", "m", "NOTE", usage="Set exception note")
RAISE_OPTIONS = (
    Option("severity", "s", "N", usage="Set exception severity [0-7] (default=0)"),
    Option("type", "t", "TYPE", usage="Set exception type (default=cancel)"),
    _MESSAGE,
)
RAISEALL_OPTIONS = (
    Option("severity", "s", "N", usage="Set exception severity [0-7] (0 is fatal, default=7)"),
    _USER,
    Option("states", "S", "STATES", split=True, usage="Set target job states (default=ACTIVE)"),
    _FORCE,
)


def kill(options: Options, context: Context) -> int:
    """Send a signal."""
    if not options.arguments:
        raise context.command.usage_error()
    ids, rest = _leading_ids(options.arguments)
    if rest:
        raise CommandError(f"invalid jobid: {rest[0]}")
    signum = parse_signal_name(options.get("signal") or "SIGTERM", "kill")
    with context.open() as flux:
        return _for_each(ids, lambda jobid: flux.jobs.begin_kill(jobid, signum), context, "kill")


def raise_exception(options: Options, context: Context) -> int:
    """Raise an exception."""
    return _raise(options, context, options.get("type") or "cancel", options.integer("severity", 0), "raise")


def cancel(options: Options, context: Context) -> int:
    """Cancel jobs."""
    return _raise(options, context, "cancel", 0, "cancel")


def _raise(options: Options, context: Context, kind: str, severity: int, prefix: str) -> int:
    if not options.arguments:
        raise context.command.usage_error()
    ids, rest = _leading_ids(options.arguments)
    note = " ".join(rest) if rest else None
    if options.has("message"):
        if note is not None:
            raise CommandError("Do not set note on command line and with --message")
        note = options.get("message")
    with context.open() as flux:
        return _for_each(ids, lambda jobid: flux.jobs.begin_raise(jobid, kind, severity, note), context, prefix)


def _leading_ids(words: list[str]) -> tuple[list[str], list[str]]:
    """The words that are job ids, and what follows them."""
    for index, word in enumerate(words):
        try:
            parse_fluid(word)
        except ValueError:
            return words[:index], words[index + (word == "--") :]
    return words, []


def _for_each(ids: list[str], begin: Callable[[int], Rpc], context: Context, prefix: str) -> int:
    return collect([(f"{prefix} {name}", begin(parse_id(name))) for name in ids], context)


def raiseall(options: Options, context: Context) -> int:
    """Raise an exception on many jobs."""
    if not options.arguments:
        raise context.command.usage_error()
    kind, *words = options.arguments
    states = ACTIVE
    if options.has("states"):
        states = _states(options)
        if states & INACTIVE:
            raise CommandError("Exceptions cannot be raised on inactive jobs")
    request = {
        "dry_run": not options.has("force"),
        "userid": parse_user(options.get("user") or "") if options.has("user") else own_user(),
        "states": states,
        "severity": options.integer("severity", 7),
        "type": kind,
        "note": " ".join(words),
    }
    return _all(options, context, "raiseall", request, "Raised exception on")


def killall(options: Options, context: Context) -> int:
    """Send a signal to many jobs."""
    if options.arguments:
        raise context.command.usage_error()
    import signal

    signum = parse_signal_name(options.get("signal") or "SIGTERM", "killall")
    userid = parse_user(options.get("user") or "") if options.has("user") else own_user()
    request: dict[str, object] = {"dry_run": not options.has("force"), "userid": userid, "signum": signum}
    return _all(options, context, "killall", request, signal.strsignal(signum) or f"Signal {signum}")


def _all(options: Options, context: Context, method: str, request: dict[str, object], done: str) -> int:
    with context.open() as flux:
        answer = _ask(flux, method, request)
    count, errors = answer["count"], answer["errors"]
    if count > 0 and not options.has("force"):
        context.log(f"Command matched {count} jobs (-f to confirm)")
    elif count > 0:
        context.log(f"{done} {count} jobs ({errors} errors)")
    else:
        context.log("Command matched 0 jobs")
    return 0


def _ask(flux: Flux, method: str, request: dict[str, object]) -> dict[str, int]:
    try:
        return flux.rpc(f"job-manager.{method}", request).get()
    except FluxError as error:
        raise CommandError(f"{method}: {reason(error)}") from None


def _states(options: Options) -> int:
    mask = 0
    for name in options.all("states"):
        try:
            mask |= parse_state(name)
        except ValueError:
            raise CommandError(f"error parsing --states: {name} is unknown") from None
    if not mask:
        raise CommandError("no states specified")
    return mask


COMMANDS = (
    Command("flux-job kill", kill, usage="[OPTIONS] ids...", options=(_SIGNAL,), permute=True),
    Command("flux-job killall", killall, usage="[OPTIONS]", options=(_SIGNAL, _USER, _FORCE), permute=True),
    Command(
        "flux-job cancel", cancel, usage="[OPTIONS] ids... [--] [message ...]", options=(_MESSAGE,), permute=True
    ),
    Command(
        "flux-job raise",
        raise_exception,
        usage="[OPTIONS] ids... [--] [message ...]",
        options=RAISE_OPTIONS,
        permute=True,
    ),
    Command(
        "flux-job raiseall", raiseall, usage="OPTIONS type [message ...]", options=RAISEALL_OPTIONS, permute=True
    ),
)
