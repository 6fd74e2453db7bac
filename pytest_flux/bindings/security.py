"""Signatures: flux-security's C API, with the one mechanism that needs none of it, ``none`` (RFC 15).

The configuration is read for the sake of its errors only. Other mechanisms fail with a text that says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from pytest_flux.bindings import library
from pytest_flux.bindings.ffi import NULL, chars, ctype, fail, put, text
from pytest_flux.bindings.library import F
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.signed_jobspec import sign_none, unwrap_none

FLUX_SECURITY_DISABLE_PATH_PARANOIA, FLUX_SECURITY_FORCE_PATH_PARANOIA = 1, 2
FLUX_SIGN_NOVERIFY = 1

lib = library.security
for _name, _value in list(globals().items()):
    if _name.startswith("FLUX_"):
        setattr(lib, _name, _value)


class Context:
    """A ``flux_security_t``, with its last error."""

    ctype = ctype("flux_security_t *")

    def __init__(self) -> None:
        self.errnum = 0
        self.error: str | None = None
        self.aux: dict[str, Any] = {}

    def fail(self, errnum: int, words: str, result: Any) -> Any:
        """Remember an error, and return what stands for it."""
        self.errnum, self.error = errnum, words
        return fail(errnum, result)


def function(signature: str) -> Callable[[F], F]:
    """Make a function one of this library."""
    return library.function(signature, lib)


@function("int -> flux_security_t *")
def flux_security_create(flags: int) -> Any:
    """Make a context: context.h of flux-security."""
    return Context()


@function("flux_security_t * -> void")
def flux_security_destroy(ctx: Any) -> None:
    """Drop a context: context.h of flux-security."""


@function("flux_security_t * -> char *")
def flux_security_last_error(ctx: Context) -> Any:
    """The text of the last error: context.h of flux-security."""
    return NULL if ctx.error is None else chars(ctx.error)


@function("flux_security_t * -> int")
def flux_security_last_errnum(ctx: Context) -> int:
    """The errno of the last error: context.h of flux-security."""
    return ctx.errnum


@function("flux_security_t *, char * -> int")
def flux_security_configure(ctx: Context, pattern: Any) -> int:
    """Configure a context: context.h of flux-security. The mechanism `none` has no settings."""
    name = text(pattern)
    if name is not None and not any(letter in name for letter in "*?[") and not os.path.exists(name):
        return int(ctx.fail(errno.EINVAL, f"pattern {name} matched nothing", -1))
    return 0


@function("flux_security_t *, void *, int, char *, int -> char *")
def flux_sign_wrap(ctx: Context, payload: Any, payloadsz: int, mech_type: Any, flags: int) -> Any:
    """Sign: sign.h of flux-security."""
    return flux_sign_wrap_as(ctx, os.getuid(), payload, payloadsz, mech_type, flags)


@function("flux_security_t *, int64_t, void *, int, char *, int -> char *")
def flux_sign_wrap_as(ctx: Context, userid: int, payload: Any, payloadsz: int, mech_type: Any, flags: int) -> Any:
    """Sign for a user: sign.h of flux-security."""
    mechanism = text(mech_type) or "none"
    if mechanism != "none":
        return ctx.fail(errno.EINVAL, f"sign-wrap: mechanism {mechanism} needs flux-security", NULL)
    return chars(sign_none(bytes(payload[:payloadsz]), userid))


@function("flux_security_t *, char *, void **, int *, int64_t *, int -> int")
def flux_sign_unwrap(ctx: Context, input: Any, payload: Any, payloadsz: Any, userid: Any, flags: int) -> int:
    """Take what was signed: sign.h of flux-security."""
    try:
        data, signer = unwrap_none(text(input) or "")
    except ProtocolError as error:
        return int(ctx.fail(errno.EINVAL, f"sign-unwrap: {error}", -1))
    for target, value in ((payload, data), (payloadsz, len(data)), (userid, signer)):
        put(target, value)
    return 0


@function("flux_security_t *, char *, void **, int *, char **, int64_t *, int -> int")
def flux_sign_unwrap_anymech(
    ctx: Context, input: Any, payload: Any, payloadsz: Any, mech_type: Any, userid: Any, flags: int
) -> int:
    """Take what was signed, by whatever mechanism: sign.h of flux-security."""
    if flux_sign_unwrap(ctx, input, payload, payloadsz, userid, flags) < 0:
        return -1
    mech_type[0] = b"none"
    return 0


@function("flux_security_t *, char *, void *, flux_security_free_f * -> int")
def flux_security_aux_set(ctx: Context, name: Any, data: Any, freefun: Any) -> int:
    """Attach something to a context: context.h of flux-security."""
    ctx.aux[text(name) or ""] = data
    return 0


@function("flux_security_t *, char * -> void *")
def flux_security_aux_get(ctx: Context, name: Any) -> Any:
    """What was attached to a context: context.h of flux-security."""
    return ctx.aux.get(text(name) or "", NULL)
