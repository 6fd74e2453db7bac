"""The two engines, and instances of them that the tests of a module share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pytest_flux.client import Flux
from tests.parity.instances import Engine, Running


@pytest.fixture(scope="module", params=["embedded", pytest.param("system", marks=pytest.mark.system_flux)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """One engine after the other, for a whole module each."""
    path = os.environ.get("PATH", os.defpath)
    if request.param == "system":
        path = os.path.dirname(request.getfixturevalue("system_flux")) + os.pathsep + path
    return Engine(request.param, path)


@pytest.fixture(scope="module", autouse=True)
def signals_as_usual() -> Iterator[None]:
    """Interrupts are not ignored, as they are below a shell that runs things in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def three(engine: Engine) -> Iterator[Running]:
    """An instance of three brokers in a row, 0 to 2: with requests that are routed. For tests that leave no trace."""
    with engine.running("-s3", "-Stbon.topo=kary:1") as running:
        yield running


@pytest.fixture
def flux(three: Running) -> Iterator[Flux]:
    """A connection to rank 0 of that instance."""
    with Flux(f"local://{three.rundir}/local-0") as client:
        yield client
