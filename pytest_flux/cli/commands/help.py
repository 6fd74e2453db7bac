"""`flux help` and `flux --help`: the list of commands, and their help texts."""

from __future__ import annotations

import sys

from pytest_flux.cli.command import Command, CommandError, Context
from pytest_flux.cli.commands import OPTIONS, TABLE, Entry, find_entry
from pytest_flux.options import OptionParser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

# `flux` suggests commands up to this distance from what was typed.
_SIMILAR_AT_MOST = 3


class FluxParser(OptionParser):
    """The options of `flux` itself. The help text lists the commands by section."""

    def __init__(self) -> None:
        super().__init__("flux", OPTIONS, "[OPTIONS] COMMAND ARGS")

    def help(self) -> str:
        """Return the text of ``flux --help``."""
        lines = []
        for section in dict.fromkeys(entry.section for entry in TABLE):
            lines += ["", section]
            lines += [f"   {entry.name:<18} {entry.summary}" for entry in TABLE if entry.section == section]
        lines += ["", "'flux help COMMAND' tells more about a command."]
        return super().help() + "\n".join(lines) + "\n"


def print_help(options: Options, context: Context) -> int:
    """Print the help texts of a command and its subcommands, or the list of all commands."""
    if not options.arguments:
        sys.stderr.write(FluxParser().help())
        return 0
    topic = options.arguments[0].removeprefix("flux-")
    entry = find_entry(topic)
    if entry is None:
        raise CommandError(f"no help for `{topic}'; the commands are listed by 'flux help'")
    if sys.stdout.isatty() and _show_page(entry):
        return 0
    command = entry.load()
    if command.takes_all:
        assert command.run is not None
        return command.run(command.parse(["--help"]), context)
    print("\n".join(shown.parser().help() for shown in (command, *command.subcommands)), end="")
    return 0


def _show_page(entry: Entry) -> bool:
    """Show the manual page of a command, as flux-core does. False if that does not work, as without man(1)."""
    import shutil
    import subprocess
    import tempfile

    from pytest_flux.cli.manual import command_page
    from pytest_flux.cli.topics import topic_of

    if shutil.which("man") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="flux-help-") as directory:
        path = f"{directory}/flux-{entry.name}.1"
        with open(path, "w", encoding="utf-8") as file:
            file.write(command_page(topic_of(entry)))
        return subprocess.run(["man", path], check=False, stderr=subprocess.DEVNULL).returncode == 0


def edit_distance(one: str, other: str) -> int:
    """Return how many letters must be added, dropped or replaced to turn one word into the other."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], index
        for column, target in enumerate(other, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != target)),
            )
    return row[-1]


def similar_commands(name: str) -> list[str]:
    """Return lines that name the commands closest to a word, at the most three, by flux-core's rule."""
    ranked: dict[int, list[str]] = {}
    for candidate in (entry.name for entry in TABLE):
        distance = edit_distance(candidate, name)
        if candidate.startswith(name):
            distance = 0 if len(name) >= 5 else distance - 1
        ranked.setdefault(distance, []).append(candidate)
    nearest = min(ranked)
    if nearest > _SIMILAR_AT_MOST:
        return []
    verb = "s are" if len(ranked[nearest]) > 1 else " is"
    return [f"The most similar command{verb}", *(f"\t{candidate}" for candidate in ranked[nearest][:3])]


COMMANDS = (
    Command(
        "flux help",
        print_help,
        usage="[COMMAND]",
        summary="Print help on flux, or on one of its commands",
        prefix="flux",
    ),
)
