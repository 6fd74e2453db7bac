"""Options in batch scripts: the directives of RFC 36, lines such as ``# flux: -N4 --queue=debug``."""

from __future__ import annotations

import re
import shlex

from pytest_flux.record import NamedTuple

_LINE = re.compile(r"([^\w]*)((?:flux|FLUX):)(.*)")
_TRIPLE = ('"""', "'''")


class Directive(NamedTuple):
    """The words of one directive, and the number of its line."""

    line: int
    words: list[str]


def parse_directives(text: str) -> list[Directive]:
    """Return the directives of a script. Raises ValueError, which names the line."""
    parser = _Parser()
    for number, line in enumerate(text.splitlines(), start=1):
        parser.take(number, line)
    return [directive for directive in parser.directives if directive.words]


class _Parser:
    """Parses line by line. All directives begin alike and form one block; a triple quote may span several lines."""

    def __init__(self) -> None:
        self.directives: list[Directive] = []
        self._sentinel: str | None = None
        self._prefix = ""
        self._over_since = 0
        self._quote = ""
        self._quote_line = 0
        self._quoted: list[str] = []
        self._indent = ""

    def take(self, number: int, line: str) -> None:
        match = _LINE.match(line)
        if match is None:
            self._other_line(number, line)
            return
        prefix, tag, value = match.groups()
        if self._over_since:
            raise ValueError(
                f"line {number}: orphan '{tag}' detected: directives disabled after line {self._over_since}"
            )
        if self._sentinel is None:
            self._sentinel, self._prefix = prefix + tag, prefix
        elif prefix + tag != self._sentinel:
            raise ValueError(f"line {number}: sentinel changed from '{self._sentinel}' to '{prefix + tag}'")
        if self._quote:
            self._continue_quote(value)
            return
        value = _escape_quotes(number, value)
        if value.endswith(_TRIPLE):
            self._begin_quote(number, value)
        elif value.strip():
            self._add(number, value)

    def _other_line(self, number: int, line: str) -> None:
        if self._quote:
            raise ValueError(f"line {number}: unterminated multi-line quote at line {self._quote_line}")
        if self._sentinel is not None and line.strip() and not line.startswith(self._prefix.rstrip()):
            self._over_since = self._over_since or number - 1

    def _begin_quote(self, number: int, value: str) -> None:
        self._quote, self._quote_line = value[-3:], number
        self._indent = value[: len(value) - len(value.lstrip())]
        self._quoted = [value[:-3].strip()]

    def _continue_quote(self, value: str) -> None:
        closes = value.endswith(self._quote)
        self._quoted.append((value[:-3] if closes else value).removeprefix(self._indent))
        if closes:
            head, *lines = self._quoted
            self._quote = ""
            self._add(self._quote_line, head + shlex.quote("\n".join(lines)))

    def _add(self, number: int, value: str) -> None:
        lexer = shlex.shlex(value, posix=True, punctuation_chars=False)
        lexer.whitespace_split = True
        lexer.escapedquotes = "\"'"
        try:
            words = list(lexer)
        except ValueError as error:
            raise ValueError(f"line {number}: {value}: {error}") from None
        if words and not words[0].startswith("-"):
            raise ValueError(f"line {number}: Unknown directive: {value}")
        self.directives.append(Directive(number, words))


def _escape_quotes(number: int, value: str) -> str:
    """Replace triple quotes that end on their line by quotes of the shell."""
    if any((count := value.count(quote)) and count % 2 == 0 for quote in _TRIPLE):
        return re.sub(r"(\"\"\"|''')(.*)\1", lambda match: shlex.quote(match[2]), value)
    if re.search(r"(\"\"\"|''').", value):
        raise ValueError(f"line {number}: unclosed triple quote: {value.strip()}")
    return value
