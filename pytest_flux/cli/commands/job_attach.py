"""`flux job attach`."""

from __future__ import annotations

from pytest_flux.cli.commands.attach_output import AttachOptions
from pytest_flux.cli.commands.attach_session import AttachSession
from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.cli.commands.job_words import parse_id
from pytest_flux.options import Option
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

OPTIONS = (
    Option("show-events", "E", usage="Print the job's events on stderr"),
    Option("show-exec", "X", usage="Print those of its execution on stderr"),
    Option("show-status", usage="Tell what the job is waiting for"),
    Option("wait-event", "w", "NAME", usage="Leave at this event (default: clean)"),
    Option("label-io", "l", usage="Begin each line of output with the task's rank"),
    Option("verbose", "v", usage="Tell where in the job shell its messages come from"),
    Option("quiet", "q", usage="Do not print messages of the job shell, nor where output goes"),
    Option("read-only", "r", usage="Leave stdin and signals alone"),
    Option("unbuffered", "u", usage="Do not buffer stdin"),
    Option("stdin-ranks", "i", "RANKS", usage="Send stdin to these tasks (default: all)"),
    Option("tail", argument="NUM", optional=True, usage="Of what was written before, print the last lines only (10)"),
    Option("debug", usage="For parallel debuggers (not in embedded instances)"),
    Option("debug-emulate", hidden=True),
    Option("queue-check-interval", argument="SECONDS", hidden=True),
)
_DEFAULT_TAIL = 10


def run(options: Options, context: Context) -> int:
    """Be attached; the exit code is the job's."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    jobid = parse_id(options.arguments[0])
    how = AttachOptions(options.arguments[0])
    for name in ("show-events", "show-exec", "show-status", "verbose", "quiet", "read-only"):
        setattr(how, name.replace("-", "_"), options.has(name))
    how.label = options.has("label-io")
    how.wait_event = options.get("wait-event") or how.wait_event
    how.stdin_ranks = _stdin_ranks(options)
    if options.has("tail"):
        how.tail = _DEFAULT_TAIL if options.get("tail") is None else options.integer("tail", _DEFAULT_TAIL)
        if how.tail < 0:
            raise CommandError("invalid tail argument")
    if options.has("debug") or options.has("debug-emulate"):
        raise CommandError("--debug needs flux-core: debuggers attach to its job shell")
    with context.open() as flux:
        return AttachSession(flux, jobid, how).run()


def _stdin_ranks(options: Options) -> str:
    text = options.get("stdin-ranks") or "all"
    if options.has("stdin-ranks") and options.has("read-only"):
        raise CommandError("Do not use --stdin-ranks with --read-only")
    if text != "all":
        try:
            decode_idset(text)
        except ValueError:
            raise CommandError(f"Invalid value '{text}' for --stdin-ranks: Invalid argument") from None
    return text


COMMANDS = (
    Command(
        "flux-job attach",
        run,
        usage="[OPTIONS] id",
        summary="Interactively attach to job",
        options=OPTIONS,
        permute=True,
    ),
)
