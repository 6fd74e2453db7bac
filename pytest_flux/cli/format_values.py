"""Values in output formats: Flux's conversions of times and numbers."""

from __future__ import annotations

import time

from pytest_flux.protocol.duration import short_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_EPOCH = "1970-01-01T00:00:00"


def convert(value: Any, conversion: str) -> Any:  # noqa: ANN401
    """The value after ``!d`` and the like. Raises ValueError for a conversion that is none."""
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
    """Whether a text stands for something that is not set."""
    return text in ("", "0s", "0.0", "0:00:00", _EPOCH) or text == _iso(0.0)


class Moment:
    """A time, to be formatted by strftime; what follows ``::`` is a format spec. The epoch stands for no time."""

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
    # Something is never shown as nothing.
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
