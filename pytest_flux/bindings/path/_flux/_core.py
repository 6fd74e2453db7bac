"""Stands where the C module of the same name does."""

from pytest_flux.bindings.core import ffi, lib

__all__ = ["ffi", "lib"]
