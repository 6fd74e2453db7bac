"""Fixtures of this project."""

import pytest_flux

# One instance of two brokers for a whole module; between tests it is made as it was.
two_brokers = pytest_flux.flux_instance(size=2, scope="module")

# One for all workers of `pytest -n 4`.
everybodys = pytest_flux.flux_instance(size=2, shared=True)
