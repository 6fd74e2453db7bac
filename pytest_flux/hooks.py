"""Hooks that a ``conftest.py`` or a plugin may implement. Each may take any of the arguments, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_flux.instance import FluxInstance
    from pytest_flux.settings import Settings


@pytest.hookspec(firstresult=True)
def pytest_flux_settings(config: pytest.Config, settings: Settings, nodeid: str) -> Settings | None:
    """Change what an instance will be like: return other settings (``dataclasses.replace``), or None for no change.

    ``nodeid`` is whom the instance is for: a test, or the module, class or directory of a fixture of wider scope.
    """


@pytest.hookspec(firstresult=True)
def pytest_flux_engine(config: pytest.Config, broker: str) -> str | None:
    """Provide an engine: the path of a program that runs as broker, for ``broker=`` names of your own.

    Asked for every value but ``auto``, ``system``, ``embedded`` and paths. None leaves it to the next.
    """


@pytest.hookspec
def pytest_flux_instance_started(config: pytest.Config, instance: FluxInstance, nodeid: str) -> None:
    """An instance runs; nobody has used it yet."""


@pytest.hookspec
def pytest_flux_instance_failed(config: pytest.Config, settings: Settings, error: Exception, nodeid: str) -> None:
    """An instance has not come up; the error has the logs."""


@pytest.hookspec
def pytest_flux_instance_stopped(
    config: pytest.Config, instance: FluxInstance, error: Exception | None, nodeid: str
) -> None:
    """An instance is gone, and its log complete; ``error`` if it has not ended as it should."""
