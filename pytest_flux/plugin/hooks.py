"""Hooks that a ``conftest.py`` or a plugin may implement. Each may take any of the arguments, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_flux.instance.flux_instance import FluxInstance
    from pytest_flux.instance.settings import Settings


@pytest.hookspec(firstresult=True)
def pytest_flux_settings(config: pytest.Config, settings: Settings, nodeid: str) -> Settings | None:
    """Change the settings of an instance: return others (``dataclasses.replace``), or None for no change.

    ``nodeid`` names the test that the instance is for, or the module, class or directory of a wider fixture.
    """


@pytest.hookspec(firstresult=True)
def pytest_flux_engine(config: pytest.Config, broker: str) -> str | None:
    """Provide an engine for a value of ``broker=``: return the path of a program that runs as broker, or None.

    Called for every value except ``auto``, ``system``, ``embedded`` and paths.
    """


@pytest.hookspec
def pytest_flux_instance_started(config: pytest.Config, instance: FluxInstance, nodeid: str) -> None:
    """Called when an instance runs, before a test uses it."""


@pytest.hookspec
def pytest_flux_instance_failed(config: pytest.Config, settings: Settings, error: Exception, nodeid: str) -> None:
    """Called when an instance did not come up. The error has the logs."""


@pytest.hookspec
def pytest_flux_instance_stopped(
    config: pytest.Config, instance: FluxInstance, error: Exception | None, nodeid: str
) -> None:
    """Called when an instance has ended and its log is complete, with ``error`` if it ended with one."""
