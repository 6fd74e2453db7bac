"""Flux's output formats: Python's format strings, with conversions and prefixes that Flux adds.

Conversions of times: ``!d`` (for strftime, with a width after ``::``), ``!D`` (ISO 8601), ``!F`` (Flux Standard
Duration), ``!H`` (H:MM:SS), ``!P`` (percent). A spec may end with ``h``, which shows empty values as ``-``, and with
``+``, which marks values that are cut off. Text before a field may end with ``?:``, which drops a field that is empty
for all items, ``+:``, which makes the field as wide as its widest value, or ``?+:``, which does both. A format
may begin with ``sort:KEY,-KEY``.
"""

from __future__ import annotations

import os
import re
import sys
import time
from string import Formatter

from pytest_flux.protocol.duration import short_duration
from pytest_flux.protocol.limits import MAX_FIELD_WIDTH, check_limit
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol

    class Item(Protocol):
        """Something to print, which has fields with names."""

        def field(self, name: str) -> Any:  # noqa: ANN401
            """The value of a field. Raises AttributeError."""


_EPOCH = "1970-01-01T00:00:00"


def convert(value: Any, conversion: str) -> Any:  # noqa: ANN401
    """Convert a value as ``!d`` and the like say. Raises ValueError for an unknown conversion."""
    if not conversion:
        return value
    if conversion in ("s", "r", "a"):
        return f"{{!{conversion}}}".format(value)
    if conversion not in _CONVERSIONS:
        raise ValueError(f"Unknown conversion specifier {conversion}")
    if conversion == "d":
        return Moment(0.0 if value == "" else value)
    return "" if str(value) == "" else _CONVERSIONS[conversion](value)


def is_empty(text: str) -> bool:
    """Return whether a text stands for a value that is not set."""
    return text in ("", "0s", "0.0", "0:00:00", _EPOCH) or text == _iso(0.0)


class Moment:
    """A time for strftime; a format spec may follow ``::``. The epoch stands for a time that is not set."""

    __slots__ = ("timestamp",)

    def __init__(self, timestamp: float) -> None:
        self.timestamp = timestamp

    def __format__(self, spec: str) -> str:
        form, colons, rest = spec.partition("::")
        text = time.strftime(form or "%Y-%m-%dT%H:%M:%S", time.localtime(self.timestamp)) if self.timestamp else ""
        if rest.endswith("h"):
            text, rest = text or "-", rest[:-1] + "s"
        return format(text, rest) if colons else text

    def __str__(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.timestamp)) + _fraction(self.timestamp)


def _fraction(timestamp: float) -> str:
    micros = round((timestamp - int(timestamp)) * 1e6)
    return f".{micros:06}" if micros else ""


def _iso(timestamp: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(timestamp))


def _clock(seconds: float) -> str:
    # A duration above 0 is never shown as 0.
    whole = 1 if 0 < seconds < 1 else round(seconds)
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} day{'s' if days != 1 else ''}, {text}" if days else text


def _percent(share: float) -> str:
    percent = share * 100
    return f"{percent:.2f}%" if 0 < percent < 1 else f"{percent:.3g}%"


_CONVERSIONS: dict[str, Callable[[Any], object]] = {
    "d": Moment,
    "D": lambda value: _iso(value) if value else "",
    "F": short_duration,
    "H": _clock,
    "P": _percent,
}

_LONGEST = 20
"""Digits of a number that are read: more of them exceed every limit anyway."""
_PREFIXES = ("?+:", "?:", "+:")
_SPEC = re.compile(
    r"(?P<align>(?:.?[<>=^])?)(?P<rest>[- +]?z?#?0?)(?P<width>[0-9]*)(?P<grouping>[_,]?)"
    r"(?:\.(?P<precision>[0-9]+))?(?P<type>[bcdeEfFgGnosxX%]?)(?P<hyphen>h?)(?P<truncate>\+?)",
    re.DOTALL,
)


class Field(NamedTuple):
    """One piece of a format: text, followed by a field unless ``name`` is empty."""

    text: str
    name: str = ""
    spec: str = ""
    conversion: str = ""

    @property
    def prefix(self) -> str:
        """Return the prefix for the field, which stands at the end of the text."""
        return next((prefix for prefix in _PREFIXES if self.text.endswith(prefix)), "")

    def __str__(self) -> str:
        if not self.name:
            return self.text
        conversion = f"!{self.conversion}" if self.conversion else ""
        spec = f":{self.spec}" if self.spec else ""
        return f"{self.text}{{{self.name}{conversion}{spec}}}"


class Format:
    """A format string. ``headings`` has the fields that are allowed. Raises ValueError for others."""

    def __init__(self, text: str, headings: Mapping[str, str]) -> None:
        self.headings = headings
        self.sort_keys: list[tuple[str, bool]] = []
        if match := re.match(r"sort:([^{\s]+) ?", text):
            self.set_sort_keys(match[1])
            text = text[match.end() :]
        self.parts = [
            Field(text, name or "", spec or "", conversion or "")
            for text, name, spec, conversion in Formatter().parse(text)
        ]
        for part in self.parts:
            if part.name and part.name not in headings:
                raise ValueError(f"Unknown format field: {part.name}")
            for size in ("width", "precision"):
                digits = _spec(part.spec)[size][:_LONGEST]
                check_limit(f"{size} of field {part.name}", int(digits or 0), MAX_FIELD_WIDTH)

    @property
    def fields(self) -> list[str]:
        """Return the fields that items need to have."""
        return [
            *dict.fromkeys([*(part.name for part in self.parts if part.name), *(key for key, _ in self.sort_keys)])
        ]

    def set_sort_keys(self, text: str) -> None:
        """Sort by these fields, separated by commas; ``-`` means descending. Raises ValueError."""
        self.sort_keys = []
        for word in filter(None, (word.strip() for word in text.split(","))):
            name = word.removeprefix("-")
            if name not in self.headings:
                raise ValueError(f"Invalid sort key: {name}")
            self.sort_keys.append((name, word.startswith("-")))

    def without(self, names: Iterable[str], *, widths: bool = True) -> Format:
        """Return a copy without some fields; unless ``widths``, expanding fields lose their widths."""
        excluded = frozenset(names)
        parts = []
        for part in self.parts:
            if part.name in excluded:
                kept = part.text.strip()
                if kept and kept not in _PREFIXES:
                    parts.append(Field(part.text))
            elif not widths and part.text.endswith("+:"):
                parts.append(Field("", part.name, "", part.conversion))
            else:
                parts.append(part)
        return self._copy(parts)

    def _copy(self, parts: list[Field]) -> Format:
        copy = Format("", self.headings)
        copy.parts, copy.sort_keys = parts, self.sort_keys
        return copy

    def fitted(self, items: Sequence[Item], *, header: bool = True) -> Format:
        """Return a copy without prefixes, with fields dropped and widened to suit these items."""
        if not any(part.prefix for part in self.parts):
            return self
        parts = []
        for part in self.parts:
            if part.prefix:
                widest = max((_width(part, item) for item in items), default=0)
                if not widest and "?" in part.prefix:
                    continue
                if "+" in part.prefix:
                    heading = len(self.headings[part.name]) if header else 0
                    part = part._replace(spec=_widened(part.spec, max(widest, heading)))
            text = part.text
            for prefix in _PREFIXES:
                text = text.replace(prefix, "")
            parts.append(part._replace(text=text))
        return self._copy(parts)

    def header(self, width: int = -1) -> str:
        """Return the line with the headings; see :meth:`print` for the ``width``."""
        line = ""
        for part in self.parts:
            line += part.text
            if part.name:
                spec = _spec(part.spec)
                line += format(self.headings[part.name], spec["align"] + spec["width"])
        return _cut(line, width)

    def line(self, item: Item) -> str:
        """Return the line of an item. Raises ValueError for a spec that does not suit a value."""
        return "".join(part.text + (_show(part, item) if part.name else "") for part in self.parts)

    def sorted(self, items: Iterable[Item]) -> list[Item]:
        """Return the items in the order that the format asks for."""
        result = list(items)
        for key, reverse in reversed(self.sort_keys):
            result.sort(key=lambda item: sort_value(item.field(key)), reverse=reverse)
        return result

    def print(
        self,
        items: Sequence[Item],
        *,
        header: bool = True,
        width: int = -1,
        before: Callable[[Item], None] | None = None,
        after: Callable[[Item], None] | None = None,
    ) -> None:
        """Print a header, and a line for each item; blank lines are left out.

        Lines are cut off at ``width``; 0 means the width of the terminal, a negative one no limit.
        """
        fitted = self.fitted(items, header=header)
        if header:
            print(fitted.header(width))
        for item in self.sorted(items):
            line = fitted.line(item)
            if not line or line.isspace():
                continue
            if before is not None:
                before(item)
            print(_cut(line, width))
            if after is not None:
                after(item)


def sort_value(value: object) -> tuple[int, float, str]:
    """Return a key that sorts values that are not set first, then numbers, also those in text, then text."""
    text = str(value)
    if value is None or text in ("", "-"):
        return (0, 0.0, "")
    try:
        return (1, float(value) if isinstance(value, (int, float)) else float(text), "")
    except ValueError:
        return (2, 0.0, text)


def _spec(spec: str) -> dict[str, str]:
    """Return the parts of a format spec; for times, of the spec after ``::``."""
    _, colons, after = spec.partition("::")
    match = _SPEC.fullmatch(after if colons else spec)
    if match is None:
        return dict.fromkeys(_SPEC.groupindex, "")
    return {name: value or "" for name, value in match.groupdict().items()}


def _widened(spec: str, width: int) -> str:
    parts = _spec(spec)
    width = max(width, int(parts["width"] or 0))
    precision = parts["precision"]
    if precision and parts["type"] in ("", "s"):
        precision = str(max(int(precision), width))
    dotted = f".{precision}" if precision else ""
    ends = parts["type"] + parts["hyphen"] + parts["truncate"]
    return f"{parts['align']}{parts['rest']}{width}{parts['grouping']}{dotted}{ends}"


def _width(part: Field, item: Item) -> int:
    text = format(convert(item.field(part.name), part.conversion))
    return 0 if is_empty(text) else len(text)


def _show(part: Field, item: Item) -> str:
    value, spec = convert(item.field(part.name), part.conversion), part.spec
    truncate = spec.endswith("+")
    if truncate:
        spec = spec[:-1]
    if spec.endswith("h") and not isinstance(value, Moment):
        value = "-" if is_empty(str(value)) else str(value)
        spec = spec[:-1] + "s"
    text = format(value, spec)
    return text[:-1] + "+" if truncate and len(text) < len(str(value)) else text


def _cut(line: str, width: int) -> str:
    if width == 0:
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
        except OSError:
            return line
    return line[: width - 1] + "+" if 0 < width < len(line) else line
