"""What pytest loads: options, ini settings, markers and fixtures. The doors only, no logic."""

from __future__ import annotations

import pytest

from pytest_flux import settings
from pytest_flux.fixtures import flux_instance

__all__ = ["flux_instance", "pytest_addoption", "pytest_configure"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line options and ini settings, all with the one prefix."""
    settings.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line("markers", settings.MARKER)
