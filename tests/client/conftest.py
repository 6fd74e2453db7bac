"""A broker for each test of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_flux.client import Flux
from tests.client.scripted_broker import ScriptedBroker, open_broker


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    """A small broker that answers as the test says."""
    with open_broker() as broker:
        yield broker


@pytest.fixture
def flux(broker: ScriptedBroker) -> Iterator[Flux]:
    """A handle on it."""
    with Flux(broker.uri) as flux:
        yield flux
