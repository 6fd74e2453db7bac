"""Instances outside of pytest: in scripts and notebooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pytest_flux.instance import FluxInstance
from pytest_flux.launcher import forkserver
from pytest_flux.settings import Settings, update

_running: set[FluxInstance] = set()


@contextlib.contextmanager
def start(**given: Any) -> Iterator[FluxInstance]:  # noqa: ANN401 - by the names of Settings
    """An instance for the time of a with statement: ``with pytest_flux.start(size=4) as flux:``.

    Keywords are those of Settings. Raises SettingsError, and InstanceError for an instance that does not come up or
    does not end as it should.
    """
    instance = FluxInstance(update(Settings(), given, "pytest_flux.start()"))
    _running.add(instance)
    try:
        with instance:
            yield instance
    finally:
        _running.discard(instance)
        if not _running:
            forkserver.close_unless_kept()
