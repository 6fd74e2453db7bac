"""Tests that share an instance, each as if it were its own."""

import pytest_flux


def test_leaves_a_key(two_brokers: pytest_flux.FluxInstance) -> None:
    two_brokers.kvs.put("left.behind", "1")


def test_does_not_see_it(two_brokers: pytest_flux.FluxInstance) -> None:
    assert not two_brokers.kvs.exists("left.behind")
