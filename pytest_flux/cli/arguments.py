"""Command lines of those commands that are Python programs in Flux: argparse's rules and messages, without argparse.

Options cannot be abbreviated, mistakes end with exit code 2, ``--help`` prints to stdout, and errors are logged as
``flux-NAME: ERROR: TEXT``.
"""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.cli.command import Command, CommandError, Context
from pytest_flux.options import Option, OptionExit, OptionParser, Options, split_commas
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from pytest_flux.cli.command import Run
    from pytest_flux.client import Flux

    Rewrite = tuple[str, Callable[[str], str]]


class ArgumentParser(OptionParser):
    """Parses as argparse does in Flux. An option in ``rewrites`` counts as another one, with a changed argument."""

    def __init__(
        self,
        program: str,
        table: Sequence[Option],
        usage: str,
        *,
        permute: bool = False,
        rewrites: Mapping[str, Rewrite] | None = None,
    ) -> None:
        super().__init__(program, table, usage, width=32, permute=permute)
        self._rewrites = rewrites or {}
        self._by_name = {option.name: option for option in self.table if option.name}

    def parse(self, argv: Sequence[str]) -> Options:
        """Read a command line. Raises OptionExit."""
        return super().parse(list(self._attach_optional(argv)))

    def _attach_optional(self, argv: Sequence[str]) -> Iterator[str]:
        """Attach optional arguments to their option, where the next word can be the argument."""
        words = iter(range(len(argv)))
        for index in words:
            word = argv[index]
            if word == "--" or (not self.permute and not word.startswith("-")):
                yield from argv[index:]
                return
            option = self._option_of(word)
            following = argv[index + 1] if index + 1 < len(argv) else None
            if option is None or following is None or not option.argument:
                yield word
            elif not option.optional:
                yield word
                yield argv[next(words)]
            elif not following.startswith("-"):
                if len(word) > 2 and word[1] != "-":
                    yield word[:-1]
                yield f"--{option.name}={argv[next(words)]}"
            else:
                yield word

    def _option_of(self, word: str) -> Option | None:
        """Return the option that a word stands for; None if the word holds the option's argument as well."""
        if word.startswith("--"):
            return self._by_name.get(word[2:])
        if len(word) < 2 or word[0] != "-":
            return None
        # Of several letters, the last one counts, unless one before it takes the rest as its argument.
        found = [next((option for option in self.table if option.key == key), None) for key in word[1:]]
        return None if any(option is None or option.argument for option in found[:-1]) else found[-1]

    def usage_error(self, text: str) -> OptionExit:
        """Return the error for a mistake on the command line."""
        return OptionExit(2, f"usage: {self.program} {self.usage}\n{self.program}: error: {text}\n")

    def invalid(self, name: str, text: str) -> OptionExit:
        """Return the error for a mistake in the argument of an option."""
        key = self._by_name[name].key
        return self.usage_error(f"argument {f'-{key}/' if key else ''}--{name}: {text}")

    def _find_long(self, name: str) -> Option | None:
        return self._by_name.get(name)

    def _found(self, option: Option, value: str | None, options: Options) -> None:
        if option.name == "help":
            sys.stdout.write(self.help())
            raise OptionExit(0, "")
        if option.name in self._rewrites:
            name, change = self._rewrites[option.name]
            option, value = self._by_name[name], None if value is None else change(value)
        super()._found(option, value, options)

    def _next_word(self, word: str, words: Iterator[str]) -> str:
        value = next(words, None)
        if value is None:
            option = self._option_of(word)
            raise self.invalid(option.name, "expected one argument") if option else self._unrecognized(word)
        return value

    def _parse_long(self, word: str, words: Iterator[str], options: Options) -> None:
        name, equals, attached = word[2:].partition("=")
        option = self._by_name.get(name)
        if option is not None and equals and not option.argument:
            raise self.invalid(name, f"ignored explicit argument {attached!r}")
        super()._parse_long(word, words, options)

    def _unrecognized(self, what: str) -> OptionExit:
        return self.unrecognized(what)

    def unrecognized(self, what: str) -> OptionExit:
        """Return the error for words that have no meaning."""
        # The parser of the command reports them, not that of the subcommand.
        whole = self.program.split(" ")[0]
        who = whole if "-" in whole else self.program
        return OptionExit(2, f"usage: {self.program} {self.usage}\n{who}: error: unrecognized arguments: {what}\n")


class ArgumentCommand(Command):
    """A command whose command line argparse parses in Flux. A ValueError in ``run`` counts as CommandError."""

    __slots__ = ("rewrites",)

    def __init__(
        self,
        program: str,
        run: Run | None = None,
        *,
        rewrites: Mapping[str, Rewrite] | None = None,
        usage: str = "[OPTIONS]",
        summary: str = "",
        options: Sequence[Option] = (),
        subcommands: Sequence[Command] = (),
        permute: bool = True,
        log_name: str = "",
    ) -> None:
        super().__init__(
            program,
            None if run is None else _refusing(run),
            usage=usage,
            summary=summary,
            options=options,
            subcommands=subcommands,
            prefix=(log_name or _log_name(program)) + ": ERROR",
            permute=permute and not subcommands,
        )
        self.rewrites = rewrites

    def parser(self) -> ArgumentParser:
        """Return a parser of the command's options."""
        usage = self.usage
        if self.subcommands:
            usage = "[-h] {" + ",".join(command.name for command in self.subcommands) + "} ..."
        heading = (Option("", usage=self.summary, group=-1),) if self.summary else ()
        table = (*heading, *self.options)
        return ArgumentParser(self.program, table, usage, permute=self.permute, rewrites=self.rewrites)

    def parse(self, argv: Sequence[str]) -> Options:
        """Read a command line. Raises OptionExit, CommandError."""
        try:
            options = super().parse(argv)
        except ValueError as error:
            raise CommandError(str(error)) from None
        if options.arguments and self.usage in ("", "[OPTIONS]") and not self.subcommands:
            raise self.parser().unrecognized(" ".join(options.arguments))
        return options

    def usage_error(self) -> OptionExit:
        """Return the error for a wrong number of arguments."""
        return self.parser().usage_error("wrong number of arguments")


def _log_name(program: str) -> str:
    """Return the name that a program logs under: `flux-queue` of `flux-queue start`, `flux-run` of `flux run`."""
    words = program.split(" ")
    return words[0] if "-" in words[0] else "-".join(words[:2])


def _refusing(run: Run) -> Run:
    def refuse(options: Options, context: Context) -> int:
        try:
            return run(options, context)
        except ValueError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            if isinstance(error, FluxError) or not error.filename:
                raise
            raise CommandError(f"{error.strerror}: '{error.filename}'") from None

    return refuse


def connect() -> Flux:
    """Connect to the instance. Raises CommandError with the text of Flux's Python programs."""
    from pytest_flux.client import Flux

    try:
        return Flux()
    except OSError as error:
        text = error.strerror
        if error.errno == errno.ENOENT:
            text = f"broker socket {str(error.filename).removeprefix('local://')} was not found"
        raise CommandError(f"Unable to connect to Flux: {text}") from None


def warn(context: Context, text: str, level: str = "WARNING") -> None:
    """Write a line to stderr that does not report an error."""
    sys.stderr.write(f"{context.command.prefix.removesuffix(': ERROR')}: {level}: {text}\n")


def invalid(context: Context, name: str, text: str) -> OptionExit:
    """Return the error for a mistake in the argument of an option."""
    parser = context.command.parser()
    assert isinstance(parser, ArgumentParser)
    return parser.invalid(name, text)


def integer(options: Options, context: Context, name: str, default: int) -> int:
    """Return the argument of an option as a number. Raises OptionExit."""
    text = options.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise invalid(context, name, f"invalid int value: '{text}'") from None


def job_ids(words: Sequence[str], context: Context, name: str = "JOBID") -> list[int]:
    """Return the job ids that the words stand for. Raises OptionExit."""
    from pytest_flux.protocol.fluid import parse_fluid

    ids = []
    for word in words:
        try:
            ids.append(parse_fluid(word))
        except ValueError:
            raise context.command.parser().usage_error(f"argument {name}: invalid JobID value: '{word}'") from None
    return ids


def queue_names(options: Options) -> list[str]:
    """Return the queues that ``--queue`` names."""
    return [name for text in options.all("queue") for name in split_commas(text)]


def json_or_text(text: str) -> Any:  # noqa: ANN401 - JSON
    """Return the value if the text is JSON, or else the text."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def set_dotted(values: dict[str, Any], path: str, value: object, complaint: str) -> None:
    """Set a value in nested objects, by keys with dots between; make missing objects. Raises CommandError."""
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise CommandError(complaint)
    values[last] = value


def color_is_on(options: Options, context: Context, name: str = "color") -> bool:
    """Return whether to use color, by ``--color`` and NO_COLOR (no-color.org). Raises OptionExit."""
    when = options.get(name, "never" if os.environ.get("NO_COLOR") else "auto") or "always"
    if when not in ("auto", "always", "never"):
        raise context.command.parser().usage_error(f"Invalid argument to --color: '{when}'")
    return when == "always" or (when == "auto" and sys.stdout.isatty())
