"""Spans of time as text: Flux Standard Duration (RFC 23, "Implementation").

``"1.5h"`` is 5400 seconds. Units are ``ms s m h d``; a number without one is seconds; ``inf`` has no unit.

If flux-core 0.88 and RFC 23 disagree, this follows flux-core: a missing number is zero, because strtod() returns
that; so the empty string and ``"s"`` are 0.
"""

from __future__ import annotations

import re
from math import inf, isinf, isnan

from pytest_flux.protocol.errors import ProtocolError

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# Not compiled here: re does it at first use, and most launchers never use it.
#
# What strtod() takes in the C locale, as RFC 23 asks, NaN aside. float() alone would take more: underscores
# and the digits of all scripts. Hexadecimal comes first, or its leading 0 would pass for the whole number.
_DURATION = r"""(?aixs)\s*(?P<sign>[+-]?)
    (?: 0x(?P<hexadecimal> (?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+) (?:p[+-]?[0-9]+)?)
      | (?P<decimal> (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:e[+-]?[0-9]+)?)
      | (?P<infinite> inf(?:inity)?)
    )
    (?P<unit>.*)"""

_TIMESTAMP = r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


def parse_duration(text: str) -> float:
    """The seconds that ``text`` stands for, zero or more; may be infinite.

    Raises ProtocolError for NaN, a negative number, an unknown unit (units are case sensitive), and a unit on an
    infinite number.
    """
    match = re.fullmatch(_DURATION, text)
    if match is None:
        number, unit = 0.0, text
    else:
        number, unit = _number(match), match["unit"]
    if unit not in _SECONDS or (unit and isinf(number)) or number < 0:
        raise ProtocolError("not a Flux Standard Duration", repr(text[:80]))
    return number * _SECONDS[unit]


def parse_timestamp(text: str) -> float:
    """Read seconds since the epoch as strtod(3) does, in decimal. Raises ProtocolError for other text."""
    if not re.fullmatch(_TIMESTAMP, text):
        raise ProtocolError("not a timestamp", repr(text[:80]))
    return float(text)


def _number(match: re.Match[str]) -> float:
    if match["infinite"]:
        number = inf
    elif match["decimal"]:
        number = float(match["decimal"])
    else:
        try:
            number = float.fromhex(match["hexadecimal"])
        except OverflowError:
            number = inf
    return -number if match["sign"] == "-" else number


def format_duration(seconds: float) -> str:
    """The text that flux-core prints for a duration: six significant digits, in the largest unit that fits.

    Below 0.1 s that is ``ms``, zero is ``0s``. Raises ProtocolError for a negative number and for NaN.
    """
    if isnan(seconds) or seconds < 0:
        raise ProtocolError("not a duration", str(seconds))
    if isinf(seconds):
        return "infinity"
    if seconds < 0.1 and seconds != 0:
        return f"{seconds * 1000:.6g}ms"
    unit = "s" if seconds < 60 else "m" if seconds < 3600 else "h" if seconds < 86400 else "d"
    return f"{seconds / _SECONDS[unit]:.6g}{unit}"


def short_duration(seconds: float) -> str:
    """The text that flux-core's lists of jobs show: four digits, in the largest unit that fits."""
    if isinf(seconds):
        return "inf"
    if seconds < 1e-3:
        return "0s"
    if seconds < 10:
        return f"{seconds:.03f}s"
    for limit, scale, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / scale:.4g}{unit}"
    return f"{seconds / 86400:.4g}d"
