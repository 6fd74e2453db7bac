"""Lists of host names as text (RFC 29, "Implementation").

``"foo[1-3],bar"`` is the list foo1, foo2, foo3, bar: ordered, and names may repeat.

If flux-core 0.88 and RFC 29 disagree, this follows flux-core: spaces and tabs separate like commas,
separators may be repeated, lead or trail, and each range has the width of its own first number, so
``"[005,4]"`` is 005 and 4 (RFC 29: 005 and 004).

It does not follow flux-core in what that accepts by accident. A suffix with brackets (``"a[1-2]-[1-2]"``) gives it
names that no hostlist can express, ``"a1-[1-2]"``; numbers that are not all digits (``"[1-]"``, ``"[+1]"``,
``"[1x-3]"``, ``"[1, 2]"``) give it names that nobody meant; it replaces numbers past 2**64, and it drops the name
``"a99999999999999999999"``. Here the first three are refused, and the last is an ordinary name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import in_ranges, merge_ranges
from pytest_flux.protocol.limits import MAX_HOSTS, check_limit
from pytest_flux.record import NamedTuple

#: The longest name: _POSIX_HOST_NAME_MAX. Together with MAX_HOSTS it bounds what a short text can expand to.
MAX_NAME = 255

# flux-core counts with C's unsigned long. It cannot read larger numbers in brackets, so none are written.
_MAX_NUMBER = 2**64 - 1

_SEPARATORS = ",\t "

# Patterns are not compiled here: re does it at first use, and most launchers never use them.
_NAME = r"[^][,\t \0]+"
_EXPRESSION = r"([^][,\t \0]*)(?:\[([^][]*)\]([^][,\t \0]*))?"
_RANGE = r"([0-9]+)(?:-([0-9]+))?"


class _Run(NamedTuple):
    """Names that differ in a number only: ``prefix``, then ``low`` to ``high`` padded to ``width`` digits.

    A name without a number at its end is a run by itself: it is all prefix, and its width is 0.
    """

    prefix: str
    low: int
    high: int
    width: int


def decode_hostlist(text: str, *, limit: int = MAX_HOSTS) -> list[str]:
    """The names that ``text`` stands for, in order.

    Raises ProtocolError for anything malformed, a range that descends, a name longer than :data:`MAX_NAME`,
    and a list of more than ``limit`` names.
    """
    return expand(decode_host_ranges(text), limit=limit)


class HostRange(NamedTuple):
    """The names ``prefix``, number, ``suffix`` for all numbers from ``low`` to ``high``, padded to ``width`` digits.

    If ``width`` is 0, there is no number, and ``prefix`` is the one name.
    """

    prefix: str
    low: int
    high: int
    width: int
    suffix: str

    @property
    def size(self) -> int:
        """The number of names. It may be larger than len() can return."""
        return self.high - self.low + 1

    def names(self) -> Iterator[str]:
        """The names, one after another."""
        if not self.width:
            return iter((self.prefix,))
        return (f"{self.prefix}{number:0{self.width}}{self.suffix}" for number in range(self.low, self.high + 1))


def decode_host_ranges(text: str) -> list[HostRange]:
    """The ranges that ``text`` stands for, in order, without the names. Raises ProtocolError if it is malformed."""
    ranges: list[HostRange] = []
    position = 0
    expression = re.compile(_EXPRESSION)
    while position < len(text):
        if text[position] in _SEPARATORS:
            position += 1
            continue
        match = expression.match(text, position)
        assert match is not None  # every part of it is optional
        position = match.end()
        # An expression ends at a separator or with the text; otherwise it was stopped by a stray bracket.
        if position < len(text) and text[position] not in _SEPARATORS:
            raise ProtocolError("mismatched or nested brackets in hostlist", text[:80])
        prefix, numbers, suffix = match.groups()
        if numbers is None:
            _check_length(prefix)
            ranges.append(HostRange(prefix, 0, 0, 0, ""))
        else:
            ranges.extend(_decode_range(prefix, element, suffix) for element in numbers.split(","))
    return ranges


def _decode_range(prefix: str, element: str, suffix: str) -> HostRange:
    match = re.fullmatch(_RANGE, element)
    if match is None:
        raise ProtocolError("not a range of host numbers", repr(element[:80]))
    low, high = match[1], match[2] or match[1]
    _check_length(prefix + max(low, high, key=len) + suffix)
    first, last = int(low), int(high)
    if first > last:
        raise ProtocolError("descending range of host numbers", element)
    if last > _MAX_NUMBER:
        raise ProtocolError("host number out of range", element)
    return HostRange(prefix, first, last, len(low), suffix)


def expand(ranges: Sequence[HostRange], *, limit: int = MAX_HOSTS) -> list[str]:
    """The names in ranges, in order. Raises ProtocolError if there are more than ``limit``."""
    check_limit("hosts in a list", sum(found.size for found in ranges), limit)
    return [name for found in ranges for name in found.names()]


class HostSet:
    """Host names to look up in. Long ranges stay ranges, so that a short text never takes much memory or time."""

    __slots__ = ("_names", "_ranges")

    def __init__(self, ranges: Iterable[HostRange]) -> None:
        self._names: set[str] = set()
        self._ranges: dict[str, dict[tuple[str, int], list[tuple[int, int]]]] = {}
        for found in ranges:
            if found.size <= _FEW:
                self._names.update(expand([found]))
            else:
                of_prefix = self._ranges.setdefault(found.prefix, {})
                of_prefix.setdefault((found.suffix, found.width), []).append((found.low, found.high))
        for of_prefix in self._ranges.values():
            for key, numbers in of_prefix.items():
                of_prefix[key] = merge_ranges(numbers)

    def __contains__(self, name: str) -> bool:
        if name in self._names:
            return True
        # There may be thousands of prefixes, but a name has few letters.
        ends = range(min(len(name), MAX_NAME) if self._ranges else 0)
        return any(name[:end] in self._ranges and self._is_in(name[end:], self._ranges[name[:end]]) for end in ends)

    @staticmethod
    def _is_in(rest: str, of_prefix: dict[tuple[str, int], list[tuple[int, int]]]) -> bool:
        for (suffix, width), numbers in of_prefix.items():
            digits = rest.removesuffix(suffix)
            if rest.endswith(suffix) and digits.isascii() and digits.isdigit() and len(digits) <= MAX_NAME:
                number = int(digits)
                if in_ranges(number, numbers) and digits == f"{number:0{width}}":
                    return True
        return False

    def first_unknown(self, known: Collection[str]) -> str | None:
        """The first name, in alphabetic order, that is not in ``known``; None if there is none.

        Names in long ranges are looked at only until one is unknown.
        """
        unknown = [name for name in self._names if name not in known]
        for prefix, of_prefix in self._ranges.items():
            for (suffix, width), numbers in of_prefix.items():
                found = (HostRange(prefix, low, high, width, suffix).names() for low, high in numbers)
                unknown += islice((name for name in chain.from_iterable(found) if name not in known), 1)
        return min(unknown, default=None)


_FEW = 16
"""Ranges with at most so many names are kept as names."""


def _check_length(name: str) -> None:
    if len(name) > MAX_NAME:
        raise ProtocolError(f"host name longer than {MAX_NAME} characters", name[:80])


def encode_hostlist(hosts: Iterable[str]) -> str:
    """The text for a list of names, grouped as flux-core groups them.

    Neighbours that end in consecutive numbers become a range, neighbouring ranges of one prefix share
    brackets, and order and repetitions stay: ``foo1,foo2,foo1`` is ``foo[1-2,1]``, ``vm,vm`` is ``vm,vm``.
    Raises ProtocolError for a name that cannot be read back: empty, overlong, or with a separator, a
    bracket or NUL in it.
    """
    expressions: list[str] = []
    for (prefix, numbered), runs in groupby(_runs(hosts), key=lambda run: (run.prefix, run.width > 0)):
        if not numbered:
            expressions.extend(run.prefix for run in runs)
            continue
        ranges = [_encode_range(run) for run in runs]
        single = len(ranges) == 1 and "-" not in ranges[0]
        expressions.append(prefix + ranges[0] if single else f"{prefix}[{','.join(ranges)}]")
    return ",".join(expressions)


def _runs(hosts: Iterable[str]) -> Iterator[_Run]:
    current: _Run | None = None
    high = 0
    following: str | None = None
    for name in hosts:
        # An instance has thousands of hosts, nearly all of which follow the one before.
        if name == following:
            high += 1
        else:
            if current is not None:
                yield current._replace(high=high)
            current = _run_of(name)
            high = current.high
        assert current is not None
        following = _following(current, high)
    if current is not None:
        yield current._replace(high=high)


def _following(run: _Run, high: int) -> str | None:
    """The name that would continue a run; None if none can.

    The new number is written with the padding of the run: 100 comes after 99 or 099, and 010 does not after 9.
    """
    if not run.width or high >= _MAX_NUMBER:
        return None
    name = f"{run.prefix}{high + 1:0{run.width}}"
    return name if len(name) <= MAX_NAME else None


def _run_of(name: str) -> _Run:
    if re.fullmatch(_NAME, name) is None:
        raise ProtocolError("not a host name", repr(name[:80]))
    _check_length(name)
    prefix = name.rstrip("0123456789")
    digits = name[len(prefix) :]
    if not digits or int(digits) > _MAX_NUMBER:
        return _Run(name, 0, 0, 0)
    return _Run(prefix, int(digits), int(digits), len(digits))


def _encode_range(run: _Run) -> str:
    low = f"{run.low:0{run.width}}"
    return low if run.low == run.high else f"{low}-{run.high:0{run.width}}"
