"""Tests for any number of workers, and one instance."""

import pytest


@pytest.mark.parametrize("number", range(8))
def test_keys(everybodys, number):
    everybodys.kvs.put(f"test.{number}", str(number))
    assert everybodys.kvs.get(f"test.{number}") == str(number).encode()
