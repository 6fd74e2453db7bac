"""A Flux handle in pure Python, for real and embedded instances alike."""

from pytest_flux.client.connection import Rpc
from pytest_flux.client.handle import Flux

__all__ = ["Flux", "Rpc"]
