"""Start instances on demand, in a test or in a fixture of any scope: the fixture ``flux_instance_factory``.

The problem: an instance must end with what has asked for it, a test or a fixture, but a fixture of pytest has one
scope and does not learn who calls its value. We note which fixtures are being set up (`_Tracker`): a call belongs to
the innermost of them, else to the test that runs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.instance.settings import SettingsError, describe, update
from pytest_flux.plugin import reporting, shapes
from pytest_flux.plugin.current import current_item
from pytest_flux.plugin.providing import refuse_if_attached, require_engine
from pytest_flux.plugin.tracebacks import is_plain

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_flux.instance.flux_instance import FluxInstance
    from pytest_flux.instance.settings import SettingsKeywords
    from pytest_flux.plugin.pool import Held, Pool

__tracebackhide__ = is_plain
NAME = "flux_instance_factory"


class _Tracker:
    """A plugin that knows the fixtures that are being set up, the innermost last."""

    def __init__(self) -> None:
        self.requests: list[pytest.FixtureRequest] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, request: pytest.FixtureRequest) -> Generator[None, Any, None]:
        """Note the fixture for the time of its set-up."""
        self.requests.append(request)
        yield
        self.requests.remove(request)


class FluxInstanceFactory:
    """Start instances: ``flux_instance_factory(size=4)``. Each ends with the test or the fixture that has called."""

    def __init__(self, pool: Pool, config: pytest.Config) -> None:
        self._pool = pool
        self._config = config
        self._tracker = _Tracker()
        config.pluginmanager.register(self._tracker, "flux-tracker")

    def __repr__(self) -> str:
        running = [f"({describe(held.instance.settings)})" for held in self._pool.held if held.name == NAME]
        return f"<FluxInstanceFactory, running: {', '.join(running) or 'none'}>"

    def __call__(self, **given: Unpack[SettingsKeywords]) -> FluxInstance:
        """Start an instance and wait until it runs. Keywords are those of Settings."""
        request = next(reversed(self._tracker.requests), None)
        item = current_item(self._config)
        node: Any = item if request is None or request.scope == "function" else request.node
        refuse_if_attached(self._config, NAME)
        try:
            settings = update(shapes.of_node(node, self._config), given, node.nodeid)
        except SettingsError as error:
            raise shapes.usage(error) from None
        settings = self._pool.settle(settings, node.nodeid)
        require_engine(self._config, settings)
        scope = "function" if request is None else request.scope
        held = self._pool.acquire(NAME, settings, scope, node.nodeid or NAME, item, None)
        if scope != "function":
            self._pool.prepare(held, item)
        # Before the fixtures of the test are torn down, which may look for what it has left.
        owner: Any = item if request is None else request
        owner.addfinalizer(lambda: self._release(held))
        return held.instance

    def _release(self, held: Held) -> None:
        if held in self._pool.held:
            last = current_item(self._config)
            reporting.note_end(last, held)
            reporting.add_leaks(last, self._pool.release(held, last), strict=self._pool.strict)

    def close(self) -> None:
        """End the tracking."""
        self._config.pluginmanager.unregister(self._tracker)
