"""The fixtures that tests ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_flux.instance import FluxInstance
from pytest_flux.settings import for_test


@pytest.fixture
def flux_instance(request: pytest.FixtureRequest) -> Iterator[FluxInstance]:
    """A Flux instance of the test's own, running, and gone afterwards.

    ``@pytest.mark.flux(size=, rundir=, broker=, attrs=, conf=, timeout=)`` on the test, its class or its module says
    what it is like; ``--flux-size`` and ``--flux-broker``, or the ini settings ``flux_size`` and ``flux_broker``, say
    so for all tests that do not.
    """
    with FluxInstance(for_test(request)) as instance:
        yield instance
