"""`flux multi-prog`: run another program for each task of a job."""

from __future__ import annotations

import os
import re
import sys

from pytest_flux.cli.arguments import ArgumentCommand
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.instance.env import become
from pytest_flux.options import Option
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flux.cli.command import Context
    from pytest_flux.options import Options


class Line(NamedTuple):
    """A line of the configuration: task ranks, None for all that no other line names, and a command line."""

    ranks: tuple[int, ...] | None
    words: list[str]

    def command(self, rank: int) -> list[str]:
        """Return the command line for a task: ``%t`` is its rank, ``%o`` its place among the ranks of the line."""
        values = {"%t": str(rank), "%o": str(self.ranks.index(rank) if self.ranks is not None else 0)}
        return [re.sub("%[to]", lambda match: values[match[0]], word) for word in self.words]


def parse_line(text: str, number: int) -> Line | None:
    """Parse a line as a shell does. Return None if it is empty or a comment. Raises ValueError."""
    import shlex

    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.escapedquotes = "\"'"
    try:
        words = list(lexer)
    except ValueError as error:
        raise ValueError(f"line {number}: '{text.rstrip()}': {error}") from None
    if len(words) < 2 and (not words or words[0] == "*"):
        return None
    try:
        ranks = None if words[0] == "*" else tuple(decode_idset(words[0]))
    except ValueError:
        raise ValueError(f"line {number}: invalid idset: {words[0]}") from None
    return Line(ranks, words[1:]) if words[1:] else None


class Configuration:
    """A file that says which tasks run which program."""

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path) as file:
            try:
                lines = [parse_line(text, number) for number, text in enumerate(file, 1)]
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        self._lines = [line for line in lines if line is not None]

    def command(self, rank: int) -> list[str]:
        """Return the command line for a task. Raises ValueError if no line names it."""
        for line in self._lines:
            if line.ranks is not None and rank in line.ranks:
                return line.command(rank)
        for line in reversed(self._lines):
            if line.ranks is None:
                return line.command(rank)
        raise ValueError(f"{self._path}: No matching line for rank {rank}")


def multi_prog(options: Options, context: Context) -> int:
    """Become the program that the configuration names for this task, or print the command lines for ranks."""
    parser = context.command.parser()
    if not options.arguments:
        raise parser.usage_error("the following arguments are required: CONFIG")
    shown = _ranks(options, context)
    path, *rest = options.arguments
    if rest:
        raise parser.usage_error(f"unrecognized arguments: {' '.join(rest)}")
    configuration = Configuration(path)
    if shown is not None:
        _print(configuration, shown)
        return 0
    try:
        rank = int(os.environ["FLUX_TASK_RANK"])
    except KeyError:
        raise CommandError("FLUX_TASK_RANK not found or invalid") from None
    words = configuration.command(rank)
    raise CommandError(become(words[0], words))


def _ranks(options: Options, context: Context) -> Iterable[int] | None:
    text = options.get("dry-run")
    if text is None:
        return None
    try:
        return decode_idset(text)
    except ValueError:
        raise context.command.parser().usage_error(f"argument -n/--dry-run: invalid IDset value: '{text}'") from None


def _print(configuration: Configuration, ranks: Iterable[int]) -> None:
    import shlex

    for rank in ranks:
        sys.stdout.write(f"{rank}: {shlex.join(configuration.command(rank))}\n")


COMMANDS = (
    ArgumentCommand(
        "flux-multi-prog",
        multi_prog,
        usage="[OPTIONS] CONFIG",
        summary="Run another program for each task of a job",
        options=(Option("dry-run", "n", "IDS", usage="Print what these ranks would run"),),
    ),
)
