"""Tests for any number of workers, and one instance."""

import pytest

import pytest_flux


@pytest.mark.parametrize("number", range(8))
def test_keys(everybodys: pytest_flux.FluxInstance, number: int) -> None:
    everybodys.kvs.put(f"test.{number}", str(number))
    assert everybodys.kvs.get(f"test.{number}") == str(number).encode()
