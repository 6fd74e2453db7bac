"""All of the C API of flux-core that is here, as ``lib`` of the module ``_flux._core``."""

from pytest_flux.bindings import (
    attr,
    conf,
    constants,
    dispatch,
    event,
    flog,
    future,
    handle,
    job,
    kvs,
    message,
    opening,
    reactor,
    rpc,
)
from pytest_flux.bindings.ffi import ffi
from pytest_flux.bindings.library import core as lib

PARTS = (attr, conf, constants, dispatch, event, flog, future, handle, job, kvs, message, opening, reactor, rpc)

__all__ = ["PARTS", "ffi", "lib"]
