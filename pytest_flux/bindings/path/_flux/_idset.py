"""Stands where the C module of the same name does."""

import pytest_flux.bindings.idset
from pytest_flux.bindings.ffi import ffi
from pytest_flux.bindings.library import idset as lib

__all__ = ["ffi", "lib"]
