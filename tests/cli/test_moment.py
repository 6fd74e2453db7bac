"""Moments as users write them."""

from __future__ import annotations

from datetime import datetime

import pytest

from pytest_flux.cli.moment import parse_moment

NOW = datetime(2024, 3, 1, 10, 0).timestamp()  # noqa: DTZ001 - users mean their own time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3pm", "2024-03-01 15:00"),
        ("tomorrow 15:30", "2024-03-02 15:30"),
        ("2030-01-31 12:00", "2030-01-31 12:00"),
        ("March 3", "2024-03-03 00:00"),
        ("Mar 3 3pm", "2024-03-03 15:00"),
        ("feb 3 2025", "2025-02-03 00:00"),
        # strptime's own year has no such day.
        ("Feb 29", "2024-02-29 00:00"),
    ],
)
def test_dates(text: str, expected: str) -> None:
    assert parse_moment(text, NOW) == datetime.fromisoformat(expected).timestamp()
