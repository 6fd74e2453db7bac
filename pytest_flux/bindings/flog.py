"""Logging: flux-core's ``flog.c``."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pytest_flux.bindings.ffi import NULL, chars, ffi, text
from pytest_flux.bindings.handle import Handle, send
from pytest_flux.bindings.library import function
from pytest_flux.bindings.message import request
from pytest_flux.bindings.rpc import get_attribute
from pytest_flux.protocol.severity import severity_name
from pytest_flux.protocol.stdlog import LogEntry, encode_entry, format_timestamp, split_text

_USER = 1
"""The facility: RFC 5424, section 6.2.1."""

_ERR = 3


class _Context:
    """How a handle signs what it logs."""

    def __init__(self) -> None:
        # As glibc's `__progname` has it for a script that Python runs: the name of the interpreter.
        self.appname = os.path.basename(sys.executable or "python")
        self.procid = str(os.getpid())
        self.hostname = ""


def _context(handle: Handle) -> _Context:
    context = handle.aux.get("log")
    if context is None:
        context = handle.aux["log"] = _Context()
    assert isinstance(context, _Context)
    return context


@function("flux_t *, int, char *, ... -> int")
def flux_log(h: Any, level: int, fmt: Any, *_: Any) -> int:
    """Log a text, one entry for each of its lines: flux_log(3). The text is not a format."""
    message = text(NULL if fmt is None else fmt)
    if message is None:
        raise TypeError("initializer for ctype 'char *' must be a cdata pointer, not NoneType")
    if h is NULL or h is None:
        print(f"{severity_name(level & 7)}: {message}", file=sys.stderr)
        return 0
    context = _context(h)
    if not context.hostname and h.wire.fileno() >= 0:
        context.hostname = get_attribute(h, "rank") or ""
    for line in split_text(message):
        entry = LogEntry(
            level & 7,
            _USER,
            format_timestamp(time.time()),
            context.hostname,
            context.appname,
            context.procid,
            line,
        )
        if send(h, request(b"log.append", encode_entry(entry))) < 0:
            return -1
    return 0


@function("flux_t *, char *, ... -> void")
def flux_log_error(h: Any, fmt: Any, *_: Any) -> None:
    """Log a text, and what errno means: flux_log(3)."""
    flux_log(h, _ERR, chars(f"{text(fmt)}: {os.strerror(ffi.errno)}"))


@function("flux_t *, char * -> void")
def flux_log_set_appname(h: Handle, s: Any) -> None:
    """Set the name that a handle logs under: flux_log(3)."""
    _context(h).appname = text(s) or ""


@function("flux_t *, char * -> void")
def flux_log_set_procid(h: Handle, s: Any) -> None:
    """Set the process that a handle logs for: flux_log(3)."""
    _context(h).procid = text(s) or ""


@function("flux_t *, char * -> void")
def flux_log_set_hostname(h: Handle, s: Any) -> None:
    """Set the host that a handle logs for: flux_log(3)."""
    _context(h).hostname = text(s) or ""


@function("int -> char *")
def flux_strerror(errnum: int) -> bytes:
    """What an errno means: flux_log(3)."""
    return chars(os.strerror(errnum))
