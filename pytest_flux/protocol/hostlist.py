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
from collections.abc import Iterable, Iterator
from itertools import groupby

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.record import NamedTuple

#: The longest name: _POSIX_HOST_NAME_MAX. Together with ``limit`` it bounds what a short text can expand to.
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


def decode_hostlist(text: str, *, limit: int = 2**20) -> list[str]:
    """The names that ``text`` stands for, in order.

    Raises ProtocolError for anything malformed, a range that descends, a name longer than :data:`MAX_NAME`,
    and a list of more than ``limit`` names (flux-core's limit for a single range is the default).
    """
    hosts: list[str] = []
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
            hosts.append(prefix)
        else:
            for element in numbers.split(","):
                hosts.extend(_expand(prefix, element, suffix, limit - len(hosts)))
        if len(hosts) > limit:
            raise ProtocolError(f"hostlist of more than {limit} hosts", text[:80])
    return hosts


def _expand(prefix: str, element: str, suffix: str, room: int) -> Iterator[str]:
    match = re.fullmatch(_RANGE, element)
    if match is None:
        raise ProtocolError("not a range of host numbers", repr(element[:80]))
    low, high = match[1], match[2] or match[1]
    _check_length(prefix + max(low, high, key=len) + suffix)
    first, last, width = int(low), int(high), len(low)
    if first > last:
        raise ProtocolError("descending range of host numbers", element)
    if last > _MAX_NUMBER:
        raise ProtocolError("host number out of range", element)
    if last - first + 1 > room:
        raise ProtocolError("too many hosts in hostlist", element)
    return (f"{prefix}{number:0{width}}{suffix}" for number in range(first, last + 1))


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
    for name in hosts:
        added = _run_of(name)
        if current is None:
            current = added
        elif _continues(current, added):
            current = current._replace(high=added.high)
        else:
            yield current
            current = added
    if current is not None:
        yield current


def _run_of(name: str) -> _Run:
    if re.fullmatch(_NAME, name) is None:
        raise ProtocolError("not a host name", repr(name[:80]))
    _check_length(name)
    prefix = name.rstrip("0123456789")
    digits = name[len(prefix) :]
    if not digits or int(digits) > _MAX_NUMBER:
        return _Run(name, 0, 0, 0)
    return _Run(prefix, int(digits), int(digits), len(digits))


def _continues(run: _Run, added: _Run) -> bool:
    # The width must be right: the new number, written with the padding of the run, must look as it did (100 does
    # after 99 or 099, 010 does not after 9).
    return (
        run.width > 0
        and added.width == max(run.width, len(str(added.low)))
        and run.prefix == added.prefix
        and run.high + 1 == added.low
    )


def _encode_range(run: _Run) -> str:
    low = f"{run.low:0{run.width}}"
    return low if run.low == run.high else f"{low}-{run.high:0{run.width}}"
