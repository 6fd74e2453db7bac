"""Moments as users write them: ``now``, ``+10m``, ``3pm``, ``2030-01-31 12:00``."""

from __future__ import annotations

import time

from pytest_flux.protocol.duration import parse_duration

_DATES = ("", "%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y", "%b %d", "%b %d %Y", "%B %d", "%B %d %Y")
_TIMES = ("", "%H:%M", "%H:%M:%S", "%I%p", "%I:%M%p", "%I %p", "%I:%M %p")


def parse_moment(text: str, now: float | None = None) -> float:
    """Seconds since the epoch. Raises ValueError.

    flux-core takes what the library parsedatetime takes; here it is durations from now, the usual forms of dates and
    times of day, which are today's, ``today`` and ``tomorrow``, and ISO 8601.
    """
    now = time.time() if now is None else now
    text = text.strip()
    if text == "now":
        return now
    if text[:1] in ("+", "-"):
        offset = parse_duration(text[1:])
        return now + offset if text[0] == "+" else now - offset
    from datetime import datetime, timedelta

    base = datetime.fromtimestamp(now)  # noqa: DTZ006, users mean their own time
    day, _, rest = text.partition(" ")
    if day in ("today", "tomorrow"):
        base += timedelta(days=day == "tomorrow")
        text = rest or "00:00"
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    for date in _DATES:
        for clock in _TIMES:
            try:
                found = datetime.strptime(text, f"{date} {clock}".strip())  # noqa: DTZ007
            except ValueError:
                continue
            if not date:
                found = found.replace(year=base.year, month=base.month, day=base.day)
            elif "%Y" not in date and "%y" not in date:
                found = found.replace(year=base.year)
            return found.timestamp()
    raise ValueError(f'Invalid datetime: "{text}"')
