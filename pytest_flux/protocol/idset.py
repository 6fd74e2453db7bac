"""Sets of small integers (ranks, task ids, cores) as text (RFC 22, "Implementation").

``"0,2-5"`` is the set {0, 2, 3, 4, 5}; the empty string is the empty set.

If flux-core 0.88 and RFC 22 disagree, this follows flux-core: empty elements are skipped, so ``"1,,2,"`` is
``"1-2"``, and a range of one id, ``"1-1"``, is refused. But flux-core lets an id wrap around at
2**32; here ``"4294967297"`` is refused, like every other id past :data:`MAX_ID`.

Text may come from anybody and ``"0-2147483647"`` is twelve bytes, so ranges are kept as ranges
(:func:`decode_ranges`) until somebody asks for the ids, and then there are at most ``limit`` of them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.limits import MAX_IDS, check_limit

#: The largest id that flux-core's sets hold.
MAX_ID = 2**31 - 1

# Patterns are not compiled here: re does it at first use, and most launchers never use them.
#
# An unsigned long has twenty digits at most. Longer text never reaches int(), which is slow on it and, from 4,300
# digits on, raises an error outside our family.
_ID = r"(0|[1-9][0-9]{0,19})"
_ELEMENT = f"{_ID}(?:-{_ID})?"


def decode_ranges(text: str) -> list[tuple[int, int]]:
    """The ranges, first and last id each, that ``text`` stands for: ascending, with a gap between any two.

    One pair of square brackets around the whole is allowed (RFC 22). Raises ProtocolError, in the words of
    flux-core, which show on its command lines: ``error parsing range 'x'``, ``range '1' is out of order``,
    ``mismatched or nested brackets``.
    """
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if "[" in text or "]" in text:
        raise ProtocolError("mismatched or nested brackets")
    ranges: list[tuple[int, int]] = []
    for element in text.split(","):
        if not element:
            continue
        first, last = _decode_element(element)
        if ranges and first <= ranges[-1][1]:
            raise ProtocolError(f"range '{element}' is out of order")
        if ranges and first == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return ranges


def _decode_element(element: str) -> tuple[int, int]:
    match = re.fullmatch(_ELEMENT, element)
    if match is None:
        raise ProtocolError(f"error parsing range '{element[:80]}'")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if match[2] is not None and last <= first:
        raise ProtocolError(f"error parsing range '{element}'")
    if last > MAX_ID:
        raise ProtocolError(f"error appending '{element}': set universe size would exceed maximum")
    return first, last


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in any order, which may overlap, as :func:`decode_ranges` returns them."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def in_ranges(number: int, ranges: list[tuple[int, int]]) -> bool:
    """Whether a number is in ranges, which are as :func:`decode_ranges` returns them."""
    place = bisect_right(ranges, number, key=itemgetter(0)) - 1
    return place >= 0 and number <= ranges[place][1]


def encode_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """The text for ranges in the shape :func:`decode_ranges` returns them."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def decode_idset(text: str, *, limit: int = MAX_IDS) -> list[int]:
    """The ids that ``text`` stands for, ascending and unique, in a list.

    Raises ProtocolError as :func:`decode_ranges` does, and for a set of more than ``limit`` ids.
    """
    ranges = decode_ranges(text)
    check_limit("ids in a set", sum(last - first + 1 for first, last in ranges), limit)
    return [number for first, last in ranges for number in range(first, last + 1)]


def encode_idset(ids: Iterable[int]) -> str:
    """The shortest text for a set of ids, given in any order, repeated or not: ranges, without brackets.

    Raises ProtocolError if an id is negative or larger than :data:`MAX_ID`.
    """
    numbers = sorted(set(ids))
    if numbers and numbers[-1] - numbers[0] + 1 == len(numbers) and 0 <= numbers[0] <= numbers[-1] <= MAX_ID:
        # One range, as are the ranks of most wide jobs.
        return encode_ranges([(numbers[0], numbers[-1])])
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if not 0 <= number <= MAX_ID:
            raise ProtocolError("id out of range", str(number))
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return encode_ranges(ranges)
