"""The fixtures that tests ask for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.plugin import options
from pytest_flux.plugin.run import pool_of
from pytest_flux.plugin.tracebacks import is_plain

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_flux.instance.awaited import AsyncFluxInstance
    from pytest_flux.instance.flux_instance import FluxInstance
    from pytest_flux.instance.settings import FixtureKeywords, MarkerKeywords
    from pytest_flux.plugin.factory import FluxInstanceFactory

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
def flux_instance_async(flux_instance: FluxInstance) -> Generator[AsyncFluxInstance, None, None]:
    """``flux_instance`` for tests that are coroutines, whichever plugin runs them: asyncio's, anyio's or trio's."""
    from pytest_flux.instance.awaited import AsyncFluxInstance

    awaited = AsyncFluxInstance(flux_instance)
    yield awaited
    awaited.close()


@pytest.fixture(scope="session")
def flux_instance_factory(request: pytest.FixtureRequest) -> Generator[FluxInstanceFactory, None, None]:
    """Start any number of instances: ``flux_instance_factory(size=4)``, in a test or in a fixture of any scope.

    An instance ends with the test or the fixture that has started it.
    """
    from pytest_flux.plugin.factory import FluxInstanceFactory

    factory = FluxInstanceFactory(pool_of(request.config), request.config)
    yield factory
    factory.close()


def define(
    *,
    scope: str = "function",
    shared: bool = False,
    autouse: bool = False,
    name: str | None = None,
    **given: Unpack[FixtureKeywords],
) -> Callable[..., Generator[FluxInstance, None, None]]:
    """Define a fixture: ``four = pytest_flux.flux_instance(size=4, scope="module")`` in a conftest.

    Keywords are those of Settings; lists multiply the tests that use it. A function is called with the request, and
    returns the value: ``conf=lambda request: request.getfixturevalue("my_conf")``. With ``autouse``, every test uses
    it. With ``shared``, all pytest-xdist workers use one instance, and the scope is ``session``. Raises UsageError.
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
        yield from _provide(request, {} if axes else dict(given), shared=shared)

    provide.__doc__ = "A Flux instance."
    how: Any = {"scope": "session" if shared else scope, "params": params, "ids": ids}
    decorate: Any = pytest.fixture(**how, autouse=autouse, name=name)
    fixture: Callable[..., Generator[FluxInstance, None, None]] = decorate(provide)
    return fixture


def mark(**given: Unpack[MarkerKeywords]) -> pytest.MarkDecorator:
    """``pytest.mark.flux(size=4)`` with keywords that type checkers know: ``@pytest_flux.mark(size=4)``.

    Keywords are those of Settings; lists multiply the test. With ``fresh=True``, the test gets an instance that no
    other test uses, also where ``--flux-scope`` shares one.
    """
    return pytest.mark.flux(**given)


def _provide(
    request: pytest.FixtureRequest, given: dict[str, Any], *, shared: bool
) -> Generator[FluxInstance, None, None]:
    from pytest_flux.plugin.providing import provide

    return provide(pool_of(request.config), request, given, shared=shared)
