"""`flux kvs get` and `readlink`: read keys, or follow them."""

from __future__ import annotations

import errno
import os

from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.cli.commands.kvs_common import AT, NAMESPACE, c_string, encode, naming, open_kvs, snapshot, write
from pytest_flux.client import kvs as client
from pytest_flux.client.kvs import value_of
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Rpc
    from pytest_flux.client.kvs import Kvs
    from pytest_flux.options import Options

GET_OPTIONS = (
    NAMESPACE,
    Option("raw", "r", usage="Write values as they are, without newlines"),
    Option("treeobj", "t", usage="Print RFC 11 objects"),
    AT,
    Option("label", "l", usage="Print KEY= in front of each value"),
    Option("waitcreate", "W", usage="Wait for a key that does not exist yet"),
    Option("watch", "w", usage="Print the value again when it is written"),
    Option("uniq", "u", usage="With --watch: only if it differs"),
    Option("append", "A", usage="With --watch: only what is appended"),
    Option("full", "f", usage="With --watch: also what changes without a write to the key itself"),
    Option("count", "c", "COUNT", usage="With --watch: stop after so many values"),
    Option("stream", "S", usage="Have large values sent in pieces"),
)
READLINK_OPTIONS = (
    NAMESPACE,
    AT,
    Option("namespace-only", "o", usage="Print the namespace only, for links into another one"),
    Option("key-only", "k", usage="Print the key only"),
)

_FLAGS = (
    ("treeobj", client.TREEOBJ),
    ("waitcreate", client.WAITCREATE),
    ("watch", client.WATCH),
    ("stream", client.STREAM),
)
_WATCH_FLAGS = (("full", client.WATCH_FULL), ("uniq", client.WATCH_UNIQ), ("append", client.WATCH_APPEND))


def get(options: Options, context: Context) -> int:
    """Print the values of keys."""
    if not options.arguments:
        raise context.command.usage_error()
    maximum = options.integer("count", 0)
    with context.open() as flux:
        kvs = open_kvs(flux, options)
        if options.has("watch"):
            _watch(kvs, options, maximum)
            return 0
        for key in options.arguments:
            rpc = _begin(kvs, key, options)
            with naming(key):
                if options.has("stream"):
                    _stream(key, rpc, options)
                else:
                    _print(key, rpc, options)
    return 0


def _begin(kvs: Kvs, key: str, options: Options) -> Rpc:
    flags = sum(flag for name, flag in _FLAGS if options.has(name))
    if options.has("watch"):
        flags |= sum(flag for name, flag in _WATCH_FLAGS if options.has(name))
        if options.has("stream"):
            raise CommandError(f"{key}: {os.strerror(errno.EINVAL)}")
    with naming(key):
        if options.has("at") and flags & ~client.TREEOBJ:
            raise FluxError(errno.EINVAL)
        return snapshot(kvs, options, key).lookup(key, flags)


def _print(key: str, rpc: Rpc, options: Options, end: bytes = b"\n") -> None:
    label = encode(key) + b"=" if options.has("label") else b""
    value = value_of(rpc.get())
    if options.has("treeobj"):
        write(label + value.encode() + b"\n")
    elif options.has("raw"):
        write(label + value.value())
    else:
        data = value.value()
        write(label + (c_string(data) + end if data else b""))


def _stream(key: str, rpc: Rpc, options: Options) -> None:
    has_output = False
    try:
        while True:
            _print(key, rpc, options, b"")
            has_output = True
    except FluxError as error:
        if error.errnum != errno.ENODATA:
            raise
    if has_output and not options.has("treeobj") and not options.has("raw"):
        write(b"\n")


def _watch(kvs: Kvs, options: Options, maximum: int) -> None:
    """Follow all keys at once; the count is that of all values together, as in flux-core."""
    calls = {_begin(kvs, key, options): key for key in options.arguments}
    count = 0
    while calls:
        kvs.flux.wait_for(lambda: any(rpc.is_ready() for rpc in calls), None, "no answer")
        for rpc in [rpc for rpc in calls if rpc.is_ready()]:
            key = calls[rpc]
            with naming(key):
                try:
                    _print(key, rpc, options)
                except FluxError as error:
                    if error.errnum != errno.ENODATA:
                        raise
                    del calls[rpc]
                    continue
            count += 1
            if count == maximum:
                rpc.cancel()


def readlink(options: Options, context: Context) -> int:
    """Print where links lead."""
    if not options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        for key in options.arguments:
            with naming(key):
                namespace, target = snapshot(open_kvs(flux, options), options, key).readlink(key)
            if options.has("namespace-only") and namespace:
                target = namespace
            elif namespace and not options.has("key-only"):
                target = f"{namespace}::{target}"
            write(encode(target) + b"\n")
    return 0


GET = Command("flux-kvs get", get, usage="[OPTIONS] key [key...]", summary="Print values", options=GET_OPTIONS)
READLINK = Command(
    "flux-kvs readlink",
    readlink,
    usage="[OPTIONS] key [key...]",
    summary="Print where links lead",
    options=READLINK_OPTIONS,
)
