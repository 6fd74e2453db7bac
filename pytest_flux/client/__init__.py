"""A Flux handle in pure Python, for real and embedded instances alike."""

from pytest_flux.client.handle import Flux
from pytest_flux.client.rpc import Rpc

__all__ = ["Flux", "Rpc"]
