"""Stands where the C module of the same name does."""

from pytest_flux.bindings.ffi import ffi
from pytest_flux.bindings.hostlist import lib

__all__ = ["ffi", "lib"]
