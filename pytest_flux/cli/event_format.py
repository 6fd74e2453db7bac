"""Format events as lines of text, for people or for programs."""

from __future__ import annotations

import time

from pytest_flux.options import Option
from pytest_flux.protocol.json_value import compact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option("format", "f", "FORMAT", usage="text or json"),
    Option("time-format", "T", "FORMAT", usage="raw, iso, offset or human"),
    Option("human", "H", usage="Print times for people"),
)
"""Options of commands that print an event log."""

_RESET = "\033[0m"
_BOLD = "\033[1m"
_RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _GRAY = (f"\033[3{number}m" for number in (1, 2, 3, 4, 5, 7))
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HumanTimes:
    """Times for people: the first line of a minute shows the minute, the next lines the seconds since that line.

    With ``delta``, they show the seconds since the line before.
    """

    def __init__(self, *, delta: bool = False) -> None:
        self._delta = delta
        self._minute: tuple[int, ...] = ()
        self._reference = 0.0

    def format(self, timestamp: float) -> tuple[str, bool]:
        """Return the text for the next line, and whether a minute begins with it."""
        minute = tuple(time.localtime(timestamp)[:5])
        is_new = minute != self._minute
        if is_new:
            _, month, day, hour, minutes = self._minute = minute
            text = f"[{_MONTHS[month - 1]}{day:02} {hour:02}:{minutes:02}]"
        else:
            text = f"[{timestamp - self._reference:+11.6f}]"
        if is_new or self._delta:
            self._reference = timestamp
        return text, is_new


class EventFormatter:
    """Formats the events of one log, in order.

    ``timestamps`` are "raw" (seconds since the epoch), "iso" (ISO 8601, local time), "offset" (from the first event
    on) or "human" (the minute, then seconds since it); ``unformatted`` events are the JSON of RFC 18.
    """

    def __init__(
        self, *, unformatted: bool = False, timestamps: str = "raw", color: bool = False, offset_width: int = 0
    ) -> None:
        self._unformatted = unformatted
        self._timestamps = timestamps
        self._color = color
        self._offset_width = offset_width
        self._first: float | None = None
        self._human_times = HumanTimes()

    def start(self, timestamp: float) -> None:
        """Count offsets from ``timestamp``, unless an earlier call or event has set their origin."""
        if self._first is None:
            self._first = timestamp

    def format(self, event: dict[str, Any]) -> str:
        """Return one line, with its newline."""
        if self._unformatted:
            return compact(event) + "\n"
        name, context = event["name"], event.get("context", {})
        color = _BOLD + _RED if name == "exception" else _YELLOW
        words = [self._timestamp(event["timestamp"]), self._paint(color, name)]
        for key, value in context.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            words.append(f"{self._paint(_BLUE, key)}={self._paint(_GRAY if is_number else _MAGENTA, compact(value))}")
        return " ".join(words) + "\n"

    def _timestamp(self, timestamp: float) -> str:
        if self._timestamps == "human":
            return self._human(timestamp)
        if self._timestamps == "iso":
            return self._paint(_GREEN, _iso(timestamp))
        if self._timestamps == "offset":
            self.start(timestamp)
            timestamp -= self._first or 0.0
            return self._paint(_GREEN, f"{timestamp:{self._offset_width}.6f}")
        return self._paint(_GREEN, f"{timestamp:.6f}")

    def _human(self, timestamp: float) -> str:
        text, is_new_minute = self._human_times.format(timestamp)
        return self._paint(_BOLD + _GREEN if is_new_minute else _GREEN, text)

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._color else text


def _iso(timestamp: float) -> str:
    local = time.localtime(timestamp)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{int((timestamp - int(timestamp)) * 1e6):06}{zone}"
