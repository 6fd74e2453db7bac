"""All commands as one tree, made of their tables: what manual pages and shell completion are written from."""

from __future__ import annotations

import re

from pytest_flux.cli import flux_start
from pytest_flux.cli.command import Command
from pytest_flux.cli.commands import OPTIONS, TABLE, Entry
from pytest_flux.options import Option
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = Option("help", "h", usage="Show this text and exit")


class Topic(NamedTuple):
    """A command: ``name`` as one types it (``flux kvs get``), and what there is to say about it."""

    name: str
    usage: str
    summary: str
    options: tuple[Option, ...]
    subtopics: tuple[Topic, ...] = ()

    def walk(self) -> Iterator[Topic]:
        """Itself and all below it, in their order."""
        yield self
        for subtopic in self.subtopics:
            yield from subtopic.walk()


def flux_start_topic(
    name: str = "flux-start", summary: str = "start a Flux instance, here or as one of its brokers"
) -> Topic:
    """`flux-start`; also under the name `flux start`, which is the same program."""
    return Topic(name, "[OPTIONS] command ...", summary, (HELP, *flux_start.OPTIONS))


def flux_topic() -> Topic:
    """`flux` with all its commands."""
    return Topic(
        "flux",
        "[OPTIONS] COMMAND ARGS",
        "the command of a Flux instance",
        (HELP, *OPTIONS),
        tuple(topic_of(entry) for entry in TABLE),
    )


def topic_of(entry: Entry) -> Topic:
    """One command of `flux`."""
    name = f"flux {entry.name}"
    if entry.name == "start":
        return flux_start_topic(name, entry.summary)
    if entry.name == "job":
        # It looks its subcommands up by itself, as flux-core's does.
        from pytest_flux.cli.commands.jobs.job import TABLE as OF_JOB

        loaded = tuple(_topic(f"{name} {sub.name}", sub.load(), sub.summary) for sub in OF_JOB)
        return Topic(name, "COMMAND ARGS", entry.summary, (HELP,), loaded)
    return _topic(name, entry.load(), entry.summary)


def _topic(name: str, command: Command, summary: str) -> Topic:
    subtopics = tuple(_topic(f"{name} {sub.name}", sub, sub.summary) for sub in command.subcommands)
    usage = "COMMAND ARGS" if subtopics else command.usage
    options = () if command.takes_all else (HELP, *command.options)
    return Topic(name, usage, command.summary or summary, options, subtopics)


def values_of(option: Option) -> tuple[str, ...]:
    """The words that an option takes: ``auto``, ``system`` for ``auto|system|PATH``. Empty if it is free."""
    parts = re.sub(r"[\[\]{}]", "", option.argument).split("|")
    return tuple(part for part in parts if re.fullmatch(r"[a-z][a-z-]*", part)) if len(parts) > 1 else ()


def takes_file(option: Option) -> bool:
    """Whether an option takes the path of a file."""
    return bool(re.search(r"\b(PATH|FILE|FILENAME|TARGET|SCRIPT)\b", option.argument))


def takes_directory(option: Option) -> bool:
    """Whether an option takes the path of a directory."""
    return bool(re.search(r"\bDIR\b", option.argument))


def runs_program(topic: Topic) -> bool:
    """Whether the first word after the options is the name of a program."""
    return not topic.subtopics and bool(re.search(r"\bcommand\b|\bCOMMAND\b", topic.usage))
