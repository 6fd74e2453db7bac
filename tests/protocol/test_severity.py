"""Severities by number and by name."""

from __future__ import annotations

import syslog

from pytest_flux.protocol import severity
from pytest_flux.protocol.severity import SEVERITY_NAMES, severity_name


def test_names() -> None:
    assert [severity_name(number) for number in range(8)] == list(SEVERITY_NAMES)
    assert severity_name(8) == severity_name(-1) == "-"


def test_numbers_are_those_of_the_c_library() -> None:
    assert len(SEVERITY_NAMES) == 8
    for number, name in enumerate(SEVERITY_NAMES):
        assert getattr(severity, f"LOG_{name.upper()}") == getattr(syslog, f"LOG_{name.upper()}") == number
