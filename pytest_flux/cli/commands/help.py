"""`flux help`: what there is, and how to use it."""

from __future__ import annotations

import sys

from pytest_flux.cli.commands import find_entry
from pytest_flux.cli.commands.command import Command, CommandError, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options


def run(options: Options, context: Context) -> int:
    """Print the help text of a command, with those of its subcommands, or else the list of all commands."""
    if not options.arguments:
        from pytest_flux.cli.flux import help_text

        sys.stderr.write(help_text())
        return 0
    topic = options.arguments[0].removeprefix("flux-")
    entry = find_entry(topic)
    if entry is None:
        raise CommandError(f"no help for `{topic}'; the commands are listed by 'flux help'")
    command = entry.load()
    if command.takes_all:
        assert command.run is not None
        return command.run(command.parse(["--help"]), context)
    print("\n".join(shown.parser().help() for shown in (command, *command.subcommands)), end="")
    return 0


def edit_distance(one: str, other: str) -> int:
    """How many letters must be added, dropped or replaced to make one word of the other."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], index
        for column, target in enumerate(other, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != target)),
            )
    return row[-1]


COMMAND = Command(
    "flux help", run, usage="[COMMAND]", summary="Print help on flux, or on one of its commands", prefix="flux"
)
