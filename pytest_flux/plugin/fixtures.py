"""The fixtures that tests ask for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.plugin import options
from pytest_flux.plugin.run import pool_of
from pytest_flux.plugin.tracebacks import is_plain

if TYPE_CHECKING:
    from pytest_flux.instance.flux_instance import FluxInstance, Starter

__tracebackhide__ = is_plain


def _configured_scope(fixture_name: str, config: pytest.Config) -> Any:  # noqa: ANN401 - a literal of pytest's
    shared = options.value_of(config, "shared")
    return "session" if shared else options.value_of(config, "scope")


@pytest.fixture(scope=_configured_scope)
def flux_instance(request: pytest.FixtureRequest) -> Generator[FluxInstance, None, None]:
    """A running Flux instance, by default a new one for each test.

    ``@pytest.mark.flux(size=, broker=, personality=, ...)`` on the test, its class or its module sets it up (see
    Settings); options such as ``--flux-size``, or ini settings such as ``flux_size``, are the defaults of the run.
    Lists multiply the test. With ``--flux-scope``, a class, module or session shares one instance, which is restored
    to its first state between tests.
    """
    yield from _provide(request, {}, shared=options.value_of(request.config, "shared"))


@pytest.fixture
def flux_executor(flux_instance: FluxInstance) -> Generator[Any, None, None]:
    """A ``flux.job.FluxExecutor`` on ``flux_instance``, shut down after the test: its jobs are cancelled then.

    If `flux` cannot be imported, the test is skipped.
    """
    from pytest_flux.instance.executor import open_executor

    with open_executor(flux_instance) as executor:
        yield executor


@pytest.fixture
def flux_instance_factory(request: pytest.FixtureRequest) -> Generator[Starter, None, None]:
    """Start any number of instances: ``flux_instance_factory(size=4)``. All are stopped after the test."""
    from pytest_flux.instance.settings import SettingsError, update
    from pytest_flux.plugin import shapes
    from pytest_flux.plugin.providing import refuse_if_attached, require_engine

    pool, item = pool_of(request.config), request.node
    holders = []

    def start(**given: Any) -> FluxInstance:  # noqa: ANN401 - by the names of Settings
        refuse_if_attached(request.config, "flux_instance_factory")
        try:
            settings = update(shapes.of_request(request, {}), given, item.nodeid)
        except SettingsError as error:
            raise shapes.usage(error) from None
        settings = pool.settle(settings, item.nodeid)
        require_engine(request.config, settings)
        holders.append(pool.acquire("flux_instance_factory", settings, "function", item.nodeid, item, None))
        return holders[-1].instance

    yield start
    errors = []
    for held in reversed(holders):
        try:
            pool.release(held, item)
        except Exception as error:  # noqa: BLE001 - the others must be released as well
            errors.append(error)
    if errors:
        raise errors[0]


def define(
    *,
    scope: str = "function",
    shared: bool = False,
    name: str | None = None,
    **given: Any,  # noqa: ANN401
) -> Callable[..., Generator[FluxInstance, None, None]]:
    """Define a fixture: ``four = pytest_flux.flux_instance(size=4, scope="module")`` in a conftest.

    Keywords are those of Settings; lists multiply the tests that use it. With ``shared``, all pytest-xdist workers
    use one instance, and the scope is ``session``. Raises UsageError.
    """
    from pytest_flux.plugin import shapes

    shapes.check(given, "pytest_flux.flux_instance()")
    axes = shapes.axes_of(given)
    variants = shapes.variants(given)
    params = variants if axes else None
    ids = [shapes.identify(variant, axes) for variant in variants] if axes else None
    if scope not in options.SCOPES:
        raise pytest.UsageError(f"flux: scope={scope!r}: one of {', '.join(options.SCOPES)} is expected")

    def provide(request: pytest.FixtureRequest) -> Generator[FluxInstance, None, None]:
        yield from _provide(request, {} if axes else given, shared=shared)

    provide.__doc__ = "A Flux instance."
    decorate: Any = pytest.fixture(scope="session" if shared else scope, params=params, ids=ids, name=name)  # type: ignore[call-overload]
    fixture: Callable[..., Generator[FluxInstance, None, None]] = decorate(provide)
    return fixture


def _provide(
    request: pytest.FixtureRequest, given: dict[str, Any], *, shared: bool
) -> Generator[FluxInstance, None, None]:
    from pytest_flux.plugin.providing import provide

    return provide(pool_of(request.config), request, given, shared=shared)
