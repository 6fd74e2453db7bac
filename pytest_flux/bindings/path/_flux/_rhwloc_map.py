"""Stands where the C module of the same name does."""

from pytest_flux.bindings.ffi import ffi
from pytest_flux.bindings.hwloc_map import lib

__all__ = ["ffi", "lib"]
