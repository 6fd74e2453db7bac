"""`flux replay`: run the jobs of a trace as mock jobs, in an instance whose time jumps (not in flux-core)."""

from __future__ import annotations

import sys

from pytest_flux.cli.command import Command, CommandError, Context, reason
from pytest_flux.client.replay import ReplayOptions, read_trace, replay_on
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.trace import FORMATS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def replay(options: Options, context: Context) -> int:
    """Replay a trace and print the means."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    path, kind = options.arguments[0], options.get("format")
    if kind is not None and kind not in FORMATS:
        raise CommandError(f"--format={kind}: one of {', '.join(FORMATS)} is expected")
    how = ReplayOptions(
        first=options.integer("first", 0),
        most=options.integer("count", 0) or None,
        spacing=_factor(options, "spacing"),
        scaling=_factor(options, "scaling"),
        whole_nodes=options.has("whole-nodes"),
        banks=_bank if options.has("user-banks") else None,
    )
    try:
        jobs = read_trace(path, kind)
        with context.open() as flux:
            result = replay_on(flux, jobs, how)
        if options.has("csv"):
            with open(options.get("csv") or "", "w", newline="", encoding="utf-8") as file:
                result.write_csv(file)
    except FluxError as error:
        raise CommandError(f"{reason(error)} (is this an instance of flux-start --clock=auto?)") from None
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    except ProtocolError as error:
        raise CommandError(str(error)) from None
    for name, value in result.summary().items():
        sys.stdout.write(f"{name} {value:.6g}\n")
    return 0


def _bank(user: str) -> str:
    return f"user{user}"


def _factor(options: Options, name: str) -> float:
    text = options.get(name) or "1"
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise CommandError(f"--{name}={text}: a number of more than 0 is expected")
    return value


COMMANDS = (
    Command(
        "flux replay",
        replay,
        usage="[OPTIONS] TRACE",
        summary="Run the jobs of a trace as mock jobs, at the times at which they were submitted, and print means."
        " Needs an instance of flux-start --clock=auto. This command is pytest-flux's: flux-core has none.",
        options=(
            Option("format", argument="swf|sacct|flux", usage="Format of the trace (default: what it looks like)"),
            Option("first", argument="N", usage="Leave out the first N jobs"),
            Option("count", argument="N", usage="Replay N jobs (default: all)"),
            Option("spacing", argument="FACTOR", usage="Multiply the time between submissions"),
            Option("scaling", argument="FACTOR", usage="Multiply the number of processors of each job"),
            Option("whole-nodes", usage="A processor of the trace is a node, not a core"),
            Option("user-banks", usage="Submit the jobs of user N to the bank userN"),
            Option("csv", argument="FILE", usage="Write a table of all jobs"),
        ),
    ),
)
