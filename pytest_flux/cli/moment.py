"""Moments as users write them: ``now``, ``+10m``, ``3pm``, ``2030-01-31 12:00``."""

from __future__ import annotations

import re
import time

from pytest_flux.protocol.duration import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

_DATES = ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y", "%b %d %Y", "%B %d %Y")
_DATES_OF_THIS_YEAR = ("%b %d", "%B %d")
_TIMES = ("", "%H:%M", "%H:%M:%S", "%I%p", "%I:%M%p", "%I %p", "%I:%M %p")
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_UNITS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86400, "week": 604800}
_RELATIVE = re.compile(
    rf"(?P<in>in )?(?P<count>\d+(?:\.\d+)?|an?) ?(?P<unit>{'|'.join(_UNITS)})s?(?: (?P<after>ago|from now))?"
)


def parse_moment(text: str, now: float | None = None) -> float:
    """Return seconds since the epoch. Raises ValueError.

    flux-core accepts what the library parsedatetime accepts. This function accepts durations from now (``+1h``,
    ``in 2 hours``, ``5 minutes ago``), the usual forms of dates, times of today, ``yesterday``, ``today`` and
    ``tomorrow``, and ISO 8601; and all that the library dateparser accepts, if it is installed.
    """
    now = time.time() if now is None else now
    text = text.strip()
    if text == "now":
        return now
    if text[:1] in ("+", "-"):
        offset = parse_duration(text[1:])
        return now + offset if text[0] == "+" else now - offset
    if relative := _RELATIVE.fullmatch(text.lower()):
        seconds = float(relative["count"].replace("an", "1").replace("a", "1")) * _UNITS[relative["unit"]]
        return now - seconds if relative["after"] == "ago" else now + seconds
    from datetime import datetime, timedelta

    base = datetime.fromtimestamp(now)  # noqa: DTZ006, users mean their own time
    day, _, rest = text.partition(" ")
    if day in _DAYS:
        base += timedelta(days=_DAYS[day])
        text = rest or "00:00"
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    # strptime's own year for dates without one has no 29 February, and changes with versions of Python.
    today = f"{base:%Y-%m-%d} "
    for prefix, form, dates in (
        (today, "%Y-%m-%d ", ("",)),
        ("", "", _DATES),
        (today[:5], "%Y-", _DATES_OF_THIS_YEAR),
    ):
        for date in dates:
            for clock in _TIMES:
                try:
                    return datetime.strptime(prefix + text, f"{form}{date} {clock}".strip()).timestamp()  # noqa: DTZ007
                except ValueError:
                    continue
    return _parse_language(text, base)


def language_hint() -> str:
    """Return what to install so that more is understood; nothing if that is there."""
    from importlib.util import find_spec

    return "" if find_spec("dateparser") else ' (more is understood after "pip install dateparser")'


def _parse_language(text: str, base: datetime) -> float:
    """Parse what only the library dateparser understands, if that is installed. Raises ValueError."""
    from importlib import import_module

    try:
        parser = import_module("dateparser")
    except ImportError:
        raise ValueError(f'Invalid datetime: "{text}"{language_hint()}') from None
    found = parser.parse(text, languages=["en"], settings={"RELATIVE_BASE": base})
    if found is None:
        raise ValueError(f'Invalid datetime: "{text}"')
    return float(found.timestamp())


def brief_duration(seconds: float) -> str:
    """Format a duration with two digits, as fsd_format_duration_ex of flux-core does."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.2g}ms"
    for unit, size, end in (("s", 1, 60), ("m", 60, 3600), ("h", 3600, 86400)):
        if seconds < end:
            return f"{seconds / size:.2g}{unit}"
    return f"{seconds / 86400:.2g}d"
