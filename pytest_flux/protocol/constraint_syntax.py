"""Constraints as users write them (RFC 35, "Grammar"), parsed into the objects of RFC 31.

``a,b -c host:n[0-3] (d|e)`` asks for the properties a and b, not c, one of those hosts, and d or e.
"""

from __future__ import annotations

import re

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.limits import MAX_PARENTHESES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Constraint = dict[str, Any]
    Token = tuple[str, str, int]

_OPERATORS = {"": "properties", "host": "hostlist", "hosts": "hostlist", "rank": "ranks"}
_TOKEN = r"""\s*(?: (?P<and>&{1,2}|and\b) | (?P<or>\|{1,2}|or\b) | (?P<not>not\b) | (?P<open>\() | (?P<close>\))
    | (?P<negate>-) | (?P<quoted>(?P<mark>['"])[^'"]*) | (?P<term>[^()|&\s"']+) )"""


def parse_constraint(text: str) -> Constraint:
    """The constraint that an expression stands for. Raises ProtocolError, which names the position."""
    parser = _Parser(text, _tokens(text))
    constraint = parser.alternatives()
    if parser.kind:
        raise ProtocolError(f"Invalid token '{parser.token[1]}' at position {parser.token[2]}")
    return constraint


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    scan = re.compile(_TOKEN, re.VERBOSE)
    position, end, pending = 0, len(text.rstrip()), ""
    while position < end:
        match = scan.match(text, position)
        if match is None or match.lastgroup is None:
            raise ProtocolError(f"Illegal character '{text[position]}' at position {position}")
        position = match.end()
        kind = next(name for name, value in match.groupdict().items() if value is not None and name != "mark")
        value, start = match[kind], match.start(kind)
        if kind == "quoted":
            if text[position : position + 1] != match["mark"]:
                raise ProtocolError(f"Unclosed quote '{match['mark']}' at position {start + 1}")
            kind, value, position = "term", value[1:], position + 1
        if kind == "term":
            value, pending = pending + value, ""
            if value.endswith(":"):
                pending = value
                continue
        tokens.append((kind, value, start))
    if pending:
        raise ProtocolError(f"Missing argument to token '{pending}'")
    return tokens


class _Parser:
    """A recursive descent parser. "or" binds least, then "and", which is optional, then "not"."""

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._index = 0
        self._opened: list[int] = []

    @property
    def token(self) -> Token:
        return self._tokens[self._index] if self._index < len(self._tokens) else ("", "", len(self._text))

    @property
    def kind(self) -> str:
        return self.token[0]

    def _next(self) -> Token:
        token = self.token
        self._index += 1
        return token

    def alternatives(self) -> Constraint:
        parts = [self._conjunction()]
        while self.kind == "or":
            self._next()
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else {"or": parts}

    def _conjunction(self) -> Constraint:
        result = self._negation()
        while self.kind and self.kind not in ("or", "close"):
            if self.kind == "and":
                self._next()
            result = _both(result, self._negation())
        return result

    def _negation(self) -> Constraint:
        kind, value, position = self._next()
        if kind == "not":
            return {"not": [self._negation()]}
        if kind == "negate" and self.kind == "term":
            return {"not": [_term(self._next()[1])]}
        if kind == "open":
            return self._parenthesis(position)
        if kind == "term":
            return _term(value)
        if kind:
            raise ProtocolError(f"Invalid token '{value}' at position {position}")
        if self._opened:
            raise ProtocolError(f"Unclosed parenthesis in position {self._opened[-1]}")
        raise ProtocolError(f"Unexpected end of input in '{self._text}'")

    def _parenthesis(self, position: int) -> Constraint:
        if len(self._opened) >= MAX_PARENTHESES:
            raise ProtocolError(f"more than {MAX_PARENTHESES} parentheses at position {position}")
        self._opened.append(position)
        inner = self.alternatives()
        if self._next()[0] != "close":
            raise ProtocolError(f"Unclosed parenthesis in position {position}")
        self._opened.pop()
        return inner


def _term(text: str) -> Constraint:
    operator, colon, value = text.partition(":")
    if not colon:
        operator, value = "", text
    if match := re.search(r"[^\w.+@-]", operator):
        raise ProtocolError(f"invalid character '{match[0]}' in operator '{operator}:'")
    name = _OPERATORS.get(operator, operator)
    return {name: value.split(",") if name == "properties" else [value]}


def _both(first: Constraint, second: Constraint) -> Constraint:
    """Both together; properties become one list."""
    entries = [*first["and"], second] if "and" in first else [first, second]
    parts: list[Constraint] = []
    together: list[str] | None = None
    for entry in entries:
        if "properties" not in entry:
            parts.append(entry)
        elif together is None:
            together = list(entry["properties"])
            parts.append({"properties": together})
        else:
            together += entry["properties"]
    return parts[0] if len(parts) == 1 else {"and": parts}
