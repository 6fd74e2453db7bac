"""A broker for each test of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_flux.client import Flux
from tests.client.bed import Bed, open_bed


@pytest.fixture
def bed() -> Iterator[Bed]:
    """A small broker that answers as the test says."""
    with open_bed() as bed:
        yield bed


@pytest.fixture
def flux(bed: Bed) -> Iterator[Flux]:
    """A handle on it."""
    with Flux(bed.uri) as flux:
        yield flux
