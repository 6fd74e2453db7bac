"""`flux kvs put`, `unlink`, `link`, `mkdir`, `copy` and `move`: change keys."""

from __future__ import annotations

import errno
import sys

from pytest_flux.cli.command import Command, CommandError, Context, naming
from pytest_flux.cli.commands.kvs.namespace import NAMESPACE, open_kvs
from pytest_flux.cli.stdio import encode
from pytest_flux.client.kvs import NO_MERGE, READDIR, SYNC, Kvs
from pytest_flux.options import Option
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.treeobj import DIR, DIRREF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client.kvs import Transaction
    from pytest_flux.options import Options

RESULT = (
    Option("treeobj-root", "O", usage="Print the new root as RFC 11 object"),
    Option("blobref", "b", usage="Print the blobref of the new root"),
    Option("sequence", "s", usage="Print the sequence number of the new root"),
)

PUT_OPTIONS = (
    NAMESPACE,
    *RESULT,
    Option("raw", "r", usage="Values are bytes; '-' reads them from stdin"),
    Option("treeobj", "t", usage="Values are RFC 11 objects; '-' reads one from stdin"),
    Option("no-merge", "n", usage="Have a root of its own, not one shared with other commits"),
    Option("append", "A", usage="Append to values, do not replace them"),
    Option("sync", "S", usage="Have it on disk before it is done"),
)
UNLINK_OPTIONS = (
    NAMESPACE,
    *RESULT,
    Option("recursive", "R", usage="Remove directories with all that is in them"),
    Option("force", "f", usage="Pass over keys that do not exist"),
)
LINK_OPTIONS = (
    NAMESPACE,
    Option("target-namespace", "T", "NS", usage="The target is in this namespace"),
    *RESULT,
)
COPY_OPTIONS = (
    Option("src-namespace", "S", "NS", usage="The source is in this namespace"),
    Option("dst-namespace", "D", "NS", usage="The destination is in this namespace"),
)


def put(options: Options, context: Context) -> int:
    """Set values."""
    if not options.arguments:
        raise context.command.usage_error()
    flags = (NO_MERGE if options.has("no-merge") else 0) | (SYNC if options.has("sync") else 0)
    with context.open() as flux:
        transaction = open_kvs(flux, options).transaction()
        for word in options.arguments:
            key, equals, value = word.partition("=")
            if not equals:
                raise CommandError("put: you must specify a value as key=value")
            with naming(key):
                _put(transaction, key, encode(value), options)
        _commit(transaction, options, flags)
    return 0


def _put(transaction: Transaction, key: str, value: bytes, options: Options) -> None:
    if value == b"-" and (options.has("treeobj") or options.has("raw")):
        value = sys.stdin.buffer.read()
    if options.has("treeobj"):
        try:
            entry = treeobj.load_treeobj(value)
        except ProtocolError:
            raise FluxError(errno.EPROTO) from None
        transaction.put_entry(key, entry)
    elif options.has("append"):
        transaction.append(key, value)
    else:
        transaction.put(key, value)


def _commit(transaction: Transaction, options: Options, flags: int = 0) -> None:
    with naming("flux_kvs_commit"):
        root = transaction.commit(flags)
    if options.has("treeobj-root"):
        print(treeobj.dirref(root.ref).encode().decode())
    elif options.has("blobref"):
        print(root.ref)
    elif options.has("sequence"):
        print(root.sequence)


def unlink(options: Options, context: Context) -> int:
    """Remove keys."""
    if not options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        kvs = open_kvs(flux, options)
        transaction = kvs.transaction()
        for key in options.arguments:
            with naming(f"cannot unlink '{key}'"):
                if _may_unlink(kvs, key, options):
                    transaction.unlink(key)
        _commit(transaction, options)
    return 0


def _may_unlink(kvs: Kvs, key: str, options: Options) -> bool:
    try:
        entry = kvs.entry(key)
    except FluxError as error:
        if error.errnum == errno.ENOENT and options.has("force"):
            return False
        raise
    if entry.type in (DIR, DIRREF) and not options.has("recursive") and kvs.entry(key, READDIR).data:
        raise FluxError(errno.ENOTEMPTY)
    return True


def link(options: Options, context: Context) -> int:
    """Give a key another name."""
    if not options.arguments:
        raise context.command.usage_error()
    if len(options.arguments) != 2:
        raise CommandError("link: specify target and link_name")
    target, name = options.arguments
    with context.open() as flux:
        transaction = open_kvs(flux, options).transaction()
        with naming(name):
            transaction.symlink(name, target, options.get("target-namespace"))
        _commit(transaction, options)
    return 0


def mkdir(options: Options, context: Context) -> int:
    """Make empty directories."""
    if not options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        transaction = open_kvs(flux, options).transaction()
        for key in options.arguments:
            with naming(key):
                transaction.mkdir(key)
        _commit(transaction, options)
    return 0


def copy(options: Options, context: Context) -> int:
    """Copy a key to another one."""
    return _copy(options, context, "copy")


def move(options: Options, context: Context) -> int:
    """Move a key to another one. This is not atomic: as in flux-core, both exist for a moment."""
    return _copy(options, context, "move")


def _copy(options: Options, context: Context, name: str) -> int:
    if len(options.arguments) != 2:
        raise CommandError(f"{name}: specify srckey dstkey")
    source, destination = options.arguments
    with context.open() as flux, naming(f"flux_kvs_{name}"):
        origin = Kvs(flux, options.get("src-namespace"))
        entry = origin.entry(source)
        Kvs(flux, options.get("dst-namespace")).transaction().put_entry(destination, entry).commit()
        if name == "move":
            origin.unlink(source)
    return 0


PUT = Command(
    "flux-kvs put", put, usage="[OPTIONS] key=value [key=value...]", summary="Set values", options=PUT_OPTIONS
)
UNLINK = Command(
    "flux-kvs unlink", unlink, usage="[OPTIONS] key [key...]", summary="Remove keys", options=UNLINK_OPTIONS
)
LINK = Command(
    "flux-kvs link", link, usage="[OPTIONS] target linkname", summary="Give a key another name", options=LINK_OPTIONS
)
MKDIR = Command(
    "flux-kvs mkdir",
    mkdir,
    usage="[OPTIONS] key [key...]",
    summary="Make empty directories",
    options=(NAMESPACE, *RESULT),
)
COPY = Command(
    "flux-kvs copy",
    copy,
    usage="[OPTIONS] source destination",
    summary="Copy a key, with all that is below it",
    options=COPY_OPTIONS,
)
MOVE = Command(
    "flux-kvs move",
    move,
    usage="[OPTIONS] source destination",
    summary="Move a key, with all that is below it",
    options=COPY_OPTIONS,
)
