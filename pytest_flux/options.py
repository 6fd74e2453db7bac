"""Command line options of Flux's commands: the rules of getopt_long, Flux's messages and the layout of its help."""

from __future__ import annotations

import os

from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LEFT_MARGIN = 2


class Option(NamedTuple):
    """One row of an option table; without a name, a heading of the help text.

    ``argument`` is how help shows the option's argument, '' if it takes none. The long form takes an ``optional``
    argument only after ``=``, and the short form only if ``attached`` (``-rTARGET``; otherwise letters that follow
    are further options). ``split`` arguments are lists with commas. Help lists options by ``group``. An ``exact``
    option cannot be abbreviated, so it makes no abbreviation of another option ambiguous.
    """

    name: str
    key: str = ""
    argument: str = ""
    optional: bool = False
    attached: bool = False
    split: bool = False
    hidden: bool = False
    usage: str = ""
    group: int = 0
    exact: bool = False


class OptionExit(Exception):
    """The command line ends the program: ``text`` belongs on stderr, ``status`` is the exit code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Options:
    """A parsed command line: options by name and, in ``arguments``, the other words.

    A name that is not in the table is a mistake of the program: KeyError.
    """

    __slots__ = ("_counts", "_program", "_values", "arguments")

    def __init__(self, program: str, names: Sequence[str]) -> None:
        self._program = program
        self._counts = dict.fromkeys(names, 0)
        self._values: dict[str, list[str]] = {name: [] for name in names}
        self.arguments: list[str] = []

    def add(self, option: Option, value: str | None) -> None:
        """Record one appearance of the option."""
        self._counts[option.name] += 1
        if value is not None:
            self._values[option.name] += split_commas(value) if option.split else [value]

    @property
    def names(self) -> Collection[str]:
        """The names of all options, given or not."""
        return self._counts.keys()

    def has(self, name: str) -> bool:
        """Whether the option appeared."""
        return self._counts[name] > 0

    def count(self, name: str) -> int:
        """How often the option appeared, with an argument or without."""
        return self._counts[name]

    def all(self, name: str) -> list[str]:
        """All arguments of the option, in order."""
        return list(self._values[name])

    def get(self, name: str, default: str | None = None) -> str | None:
        """The last argument; ``default`` if the option is absent, None if it was given without an argument."""
        if not self._counts[name]:
            return default
        return self._values[name][-1] if self._values[name] else None

    def integer(self, name: str, default: int) -> int:
        """The last argument as a C int; without one, how often the option appeared (``-vv`` is 2).

        An argument overrides repetition: ``-v --verbose=2 -v`` is 2. Raises OptionExit.
        """
        value = self.get(name)
        if value is None:
            return self._counts[name] or default
        number = parse_integer(value)
        if number is None:
            raise self._refuse(f"Option '{name}' requires an integer argument")
        return number

    def duration(self, name: str, default: float) -> float:
        """The last argument, a Flux Standard Duration (RFC 23), in seconds. Raises OptionExit."""
        if not self.has(name):
            return default
        from pytest_flux.protocol.duration import parse_duration

        value = self.get(name) or ""
        try:
            return parse_duration(value)
        except ValueError:
            raise self._refuse(f"Invalid argument for option '{name}': '{value}'") from None

    def _refuse(self, text: str) -> OptionExit:
        # Flux names the program twice here (cases verbose-bad, timeout-negative), the second time with the last word
        # of a subcommand's full name only.
        return OptionExit(1, f"{self._program}: {self._program.split()[-1]}: {text}\n")


class OptionParser:
    """A program's options.

    ``program`` is its full name as messages show it (``flux-start``, ``flux event pub``). Parsing stops at
    the first word that is not an option unless ``permute``; ``width`` is the column where help texts begin.
    """

    def __init__(
        self,
        program: str,
        table: Sequence[Option],
        usage: str = "[OPTIONS]...",
        width: int = 25,
        permute: bool = False,
    ) -> None:
        self.program = program
        self.table = (Option("help", "h", usage="Show this text and exit"), *table)
        self.usage = usage
        self.width = width
        self.permute = permute

    def parse(self, argv: Sequence[str]) -> Options:
        """Read a command line, the program's name not included. Raises OptionExit, for ``--help`` also."""
        options = Options(self.program, [option.name for option in self.table if option.name])
        words = iter(argv)
        for word in words:
            if word == "--":
                options.arguments.extend(words)
            elif word == "-" or not word.startswith("-"):
                options.arguments.append(word)
                if not self.permute:
                    options.arguments.extend(words)
            elif word.startswith("--"):
                self._parse_long(word, words, options)
            else:
                self._parse_short(word, words, options)
        return options

    def help(self) -> str:
        """The text of ``--help``."""
        return "\n".join([f"Usage: {self.program} {self.usage}", *option_lines(self.table, self.width)]) + "\n"

    def usage_error(self, text: str) -> OptionExit:
        """An error that shows the whole help text, as for a missing argument."""
        return OptionExit(1, f"{self.program}: {text}\n{self.help()}")

    def _parse_long(self, word: str, words: Iterator[str], options: Options) -> None:
        name, equals, attached = word[2:].partition("=")
        option = self._find_long(name)
        if option is None:
            raise self._unrecognized(word)
        value = attached if equals else None
        if equals and not option.argument:
            # Flux reports the short form if there is one.
            raise self._unrecognized(f"-{option.key}" if option.key else word)
        if value is None and option.argument and not option.optional:
            value = self._next_word(word, words)
        self._found(option, value, options)

    def _parse_short(self, word: str, words: Iterator[str], options: Options) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            option = next((option for option in self.table if option.key == letter), None)
            if option is None:
                # getopt works on bytes and reports the first byte of a wider character.
                raise self._unrecognized("-" + os.fsdecode(os.fsencode(letter)[:1]))
            value: str | None = None
            if option.argument and not option.optional:
                value, letters = letters or self._next_word(word, words), ""
            elif option.argument and option.attached:
                value, letters = letters or None, ""
            self._found(option, value, options)

    def _found(self, option: Option, value: str | None, options: Options) -> None:
        if option.name == "help":
            raise OptionExit(0, self.help())
        options.add(option, value)

    def _find_long(self, name: str) -> Option | None:
        """The option with this name or abbreviation; None if there is none or more than one.

        As in getopt_long, an abbreviation is not ambiguous if all candidates take arguments alike and have
        the same (or no) short form. The first one is meant: ``--test-exit`` is ``--test-exit-timeout``.
        """
        candidates: list[Option] = []
        for option in self.table:
            if option.name and option.name == name:
                return option
            if option.name.startswith(name) and option.name and not option.exact:
                candidates.append(option)
        kinds = {(bool(option.argument), option.optional, option.key) for option in candidates}
        return candidates[0] if len(kinds) == 1 else None

    def _next_word(self, word: str, words: Iterator[str]) -> str:
        value = next(words, None)
        if value is None:
            raise OptionExit(1, f"{self.program}: '{word}' missing argument\n")
        return value

    def _unrecognized(self, what: str) -> OptionExit:
        return OptionExit(
            1,
            f"{self.program}: unrecognized option '{what}'\nTry `{self.program} --help' for more information.\n",
        )


def split_commas(text: str) -> list[str]:
    """Split as glibc's argz_create_sep does: drop empty items, except one after a comma at the end."""
    items = [item for item in text.split(",") if item]
    return [*items, ""] if text.endswith(",") else items


def parse_integer(text: str) -> int | None:
    """Parse a decimal number as strtol does; None if it is not one or exceeds a C int."""
    digits = text.lstrip(" \t\n\v\f\r")
    unsigned = digits[1:] if digits[:1] in ("+", "-") else digits
    # int() raises ValueError for numbers with too many digits, so check the length first.
    if not (unsigned.isascii() and unsigned.isdigit()) or len(unsigned.lstrip("0")) > 10:
        return None
    number = int(digits)
    return number if INT_MIN <= number <= INT_MAX else None


def option_lines(table: Sequence[Option], width: int) -> list[str]:
    """Lay out headings and options by group; texts begin at column ``width`` and end at $COLUMNS."""
    columns = _terminal_columns()
    lines: list[str] = []
    for option in sorted(table, key=lambda option: option.group):
        if not option.name:
            lines += _wrap(option.usage, columns)
        elif not option.hidden:
            lines += _describe(option, width, columns)
    return lines


def _terminal_columns() -> int:
    columns = parse_integer(os.environ.get("COLUMNS", "80"))
    return columns if columns is not None and 16 < columns < 256 else 80


def _describe(option: Option, width: int, columns: int) -> list[str]:
    """The lines of help for one option: its forms on the left, its usage on the right."""
    short = f"-{option.key}, " if option.key else "    "
    forms = f"{'':{LEFT_MARGIN}}{short}--{option.name}" + ("=" + option.argument if option.argument else "")
    texts = _wrap(option.usage, max(columns - width, 10))
    lines = [f"{'':{width}}{text}" for text in texts]
    if len(forms) < width:
        lines[0] = f"{forms:{width}}{texts[0]}"
    else:
        lines.insert(0, forms if len(forms) <= columns else forms[: columns - 2] + "+")
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Fill lines of at most ``width`` characters; break only words that are longer than a line."""
    lines = []
    while len(text) > width:
        space = text.rfind(" ", 1, width + 1)
        if space < 0:
            lines.append(text[: width - 1] + "-")
            text = text[width - 1 :]
        else:
            lines.append(text[:space].rstrip())
            text = text[space + 1 :]
    return [*lines, text]
