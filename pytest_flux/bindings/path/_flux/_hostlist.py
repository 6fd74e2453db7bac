"""Stands where the C module of the same name does."""

import pytest_flux.bindings.hostlist
from pytest_flux.bindings.ffi import ffi
from pytest_flux.bindings.library import hostlist as lib

__all__ = ["ffi", "lib"]
