"""Opening handles: flux-core's ``flux_open(3)``, with the connectors ``local`` (and ``ssh``) and ``loop``."""

from __future__ import annotations

import errno
import os
from typing import Any

from pytest_flux.bindings.ffi import NULL, fail, set_error, text
from pytest_flux.bindings.handle import OPEN_FLAGS, Handle
from pytest_flux.bindings.library import function
from pytest_flux.bindings.rpc import get_attribute
from pytest_flux.bindings.wire import LoopWire, Wire
from pytest_flux.client.connector import default_uri


def open_handle(uri: str | None, flags: int = 0) -> Handle:
    """A handle for a URI, or for a path of instances (``..``). Raises OSError, ValueError."""
    if uri is None:
        uri = default_uri()
    elif uri.startswith((".", "/")):
        uri = ancestor_uri(uri)
    scheme = uri.partition("://")[0]
    if scheme == "loop":
        return Handle(LoopWire(), flags)
    if scheme not in ("local", "ssh"):
        raise OSError(errno.ENOENT, f"Unable to find connector name '{scheme}'")
    try:
        return Handle(Wire(uri), flags)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f"broker socket {uri.partition('://')[2]} was not found") from None
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None


@function("char *, int, flux_error_t * -> flux_t *")
def flux_open_ex(uri: Any, flags: int, error: Any) -> Any:
    """Connect to a broker, with a text if that fails: flux_open(3)."""
    if flags & ~OPEN_FLAGS:
        set_error(error, "invalid flags specified")
        return fail(errno.EINVAL, NULL)
    try:
        return open_handle(text(uri), flags)
    except OSError as failure:
        set_error(error, failure.strerror or str(failure))
        return fail(failure.errno or errno.EIO, NULL)


@function("char *, int -> flux_t *")
def flux_open(uri: Any, flags: int) -> Any:
    """Connect to a broker: flux_open(3)."""
    return flux_open_ex(uri, flags, NULL)


# -- instances around this one


def ancestor_uri(path: str) -> str:
    """The URI for ``..``, ``../..``, ``.`` or ``/``. Raises OSError."""
    if path.startswith("/") and path != "/":
        raise OSError(errno.EINVAL, f"{path}: invalid URI")
    elements = [element for element in path.split("/") if element]
    for element in elements:
        if element not in (".", ".."):
            raise OSError(errno.EINVAL, f"{path}: invalid URI path element '{element}'")
    handle = open_handle(None)
    try:
        level = int(_required(handle, "instance-level"))
        parents = level if path == "/" else min(elements.count(".."), level)
        uri = default_uri()
        for _ in range(parents):
            uri = _required(handle, "parent-uri")
            handle.release()
            handle = open_handle(uri)
        return uri
    finally:
        handle.release()


def _required(handle: Handle, name: str) -> str:
    value = get_attribute(handle, name)
    if value is None:
        raise OSError(errno.ENOENT, f"Failed to get {name} attribute: {os.strerror(errno.ENOENT)}")
    return value
