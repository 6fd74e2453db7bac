"""`flux kvs get`, `readlink`, `dir` and `ls`: read keys and directories."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.cli.command import Command, CommandError, Context, naming
from pytest_flux.cli.commands.kvs.namespace import NAMESPACE, open_kvs
from pytest_flux.cli.stdio import encode, write
from pytest_flux.client import kvs as client
from pytest_flux.client.kvs import Kvs, value_of
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.kvs_key import join_key
from pytest_flux.protocol.treeobj import DIR as DIRECTORY
from pytest_flux.protocol.treeobj import DIRREF, SYMLINK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flux.client import Rpc
    from pytest_flux.options import Options
    from pytest_flux.protocol.treeobj import TreeObject

AT = Option("at", "a", "TREEOBJ", usage="Look in the snapshot of which this is the root")
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


def snapshot(kvs: Kvs, options: Options, key: str) -> Kvs:
    """Return the namespace as it was at the root that ``--at`` names. Raises CommandError, which names ``key``."""
    if not options.has("at"):
        return kvs
    import json

    try:
        return Kvs(kvs.flux, kvs.namespace, at=json.loads(options.get("at") or ""))
    except ValueError:
        raise CommandError(f"{key}: {os.strerror(errno.EINVAL)}") from None


def c_string(data: bytes) -> bytes:
    """Cut a value at the first NUL, as printf does in flux-core."""
    return data.partition(b"\0")[0]


def window_width(options: Options) -> int:
    """Return the number of columns to write to; 0 means no limit. Raises OptionExit."""
    width = options.integer("width", -1)
    if width >= 0:
        return width
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = os.environ.get("COLUMNS", "")
        return int(columns) if columns.isdigit() else 80


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


def _print(key: str, rpc: Rpc, options: Options, end: bytes = b"\n") -> bool:
    """Print the next value, and return whether it has any bytes."""
    label = encode(key) + b"=" if options.has("label") else b""
    value = value_of(rpc.get())
    if options.has("treeobj"):
        write(label + value.encode() + b"\n")
        return True
    data = value.value()
    if options.has("raw"):
        write(label + data)
    else:
        write(label + (c_string(data) + end if data else b""))
    return bool(data)


def _stream(key: str, rpc: Rpc, options: Options) -> None:
    has_output = False
    try:
        while True:
            has_output |= _print(key, rpc, options, b"")
    except FluxError as error:
        if error.errnum != errno.ENODATA:
            raise
    if has_output and not options.has("treeobj") and not options.has("raw"):
        write(b"\n")


def _watch(kvs: Kvs, options: Options, maximum: int) -> None:
    """Follow all keys at once. The count applies to the values of all keys together, as in flux-core."""
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
    """Print the targets of links."""
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

WIDTH = Option("width", "w", "COLS", usage="Write to so many columns; 0 means no limit")
DIR_OPTIONS = (
    NAMESPACE,
    Option("recursive", "R", usage="Show what is in directories, too"),
    Option("directory", "d", usage="Show names, not values"),
    WIDTH,
    AT,
)
LS_OPTIONS = (
    NAMESPACE,
    Option("recursive", "R", usage="List what is in directories, too"),
    Option("directory", "d", usage="List directories themselves, not what is in them"),
    WIDTH,
    Option("1", "1", usage="List one entry a line"),
    Option("classify", "F", usage="Mark directories with '.', links with '@'"),
)

_DIRECTORIES = (DIRECTORY, DIRREF)
_ELLIPSIS = 3
_GAP = 4


def show(options: Options, context: Context) -> int:
    """Print keys and values of a directory."""
    width = window_width(options)
    if len(options.arguments) > 1:
        raise CommandError("dir: specify zero or one directory")
    key = options.arguments[0] if options.arguments else "."
    with context.open() as flux:
        _show(snapshot(open_kvs(flux, options), options, key), key, width, options)
    return 0


def _show(kvs: Kvs, directory: str, width: int, options: Options) -> None:
    with naming(directory):
        entries = kvs.ls(directory)
    for name, entry in entries.items():
        key = join_key(directory, name)
        if entry.type == SYMLINK:
            namespace, target = entry.data.get("namespace"), entry.data["target"]
            target = f"{namespace}::{target}" if namespace else target
            write(encode(f"{key} -> {target}\n"))
        elif entry.type in _DIRECTORIES:
            with naming(key):
                is_empty = not options.has("recursive") or not kvs.ls(key)
            if is_empty:
                write(encode(f"{key}.\n"))
            else:
                _show(kvs, key, width, options)
        elif options.has("directory"):
            write(encode(f"{key}\n"))
        else:
            with naming(key):
                value = kvs.get(key)
            write(format_value(encode(key), value, width))


def format_value(key: bytes, value: bytes, width: int) -> bytes:
    """Format a line of ``flux kvs dir``: the value's first line, cut at ``width`` bytes if that is over 3."""
    line = key + b" = " + c_string(value)
    if width > _ELLIPSIS:
        is_cut = len(line) > width - _ELLIPSIS
        line, newline, rest = line[: width - _ELLIPSIS if is_cut else None].partition(b"\n")
        if is_cut or (newline and rest):
            line += b"..."
    return line + b"\n"


def ls(options: Options, context: Context) -> int:
    """List keys and directories."""
    width = 1 if options.has("1") else window_width(options)
    singles: list[str] = []
    directories: list[str] = []
    status = 0
    with context.open() as flux:
        kvs = open_kvs(flux, options)
        for key in options.arguments or ["."]:
            if not _sort(kvs, key, singles, directories, options):
                status = 1
        singles.sort(key=encode)
        directories.sort(key=encode)
        if singles:
            write(columns(singles, max(map(len, map(encode, singles))), width))
        label = bool(singles) or options.has("recursive") or len(directories) > 1
        for index, key in enumerate(directories):
            _list(kvs, key, width, options, label=label, gap=bool(singles) or index > 0)
    return status


def _sort(kvs: Kvs, key: str, singles: list[str], directories: list[str], options: Options) -> bool:
    """Add a key to single keys or directories. Return False if it does not exist."""
    name = key
    while len(name) > 1 and name.endswith("."):
        name = name[:-1]
    try:
        entry = kvs.entry(name)
    except FluxError as error:
        sys.stderr.write(f"{name}: {os.strerror(error.errnum)}\n")
        return False
    if entry.type in _DIRECTORIES:
        if options.has("directory"):
            singles.append(f"{name}." if options.has("classify") else name)
        else:
            directories.append(name)
    elif name != key:
        sys.stderr.write(f"{name}: Not a directory\n")
        return False
    elif entry.type == SYMLINK and options.has("classify"):
        singles.append(f"{name}@")
    elif entry.type == SYMLINK and not options.has("directory") and _leads_to_directory(kvs, name):
        directories.append(name)
    else:
        singles.append(name)
    return True


def _leads_to_directory(kvs: Kvs, key: str) -> bool:
    try:
        kvs.get(key)
    except FluxError as error:
        if error.errnum not in (errno.ENOENT, errno.EISDIR):
            raise CommandError(f"{key}: {os.strerror(error.errnum)}") from None
        return error.errnum == errno.EISDIR
    return False


def _list(kvs: Kvs, directory: str, width: int, options: Options, *, label: bool, gap: bool) -> None:
    with naming(directory):
        entries = kvs.ls(directory)
    if label:
        write((b"\n" if gap else b"") + encode(f"{directory}:\n"))
    longest = max((len(encode(name)) for name in entries), default=0)
    write(columns((_mark(name, entry, options) for name, entry in entries.items()), longest, width))
    if options.has("recursive"):
        for name, entry in entries.items():
            if entry.type in _DIRECTORIES:
                _list(kvs, join_key(directory, name), width, options, label=label, gap=True)


def _mark(name: str, entry: TreeObject, options: Options) -> str:
    if not options.has("classify"):
        return name
    return name + ("." if entry.type in _DIRECTORIES else "@" if entry.type == SYMLINK else "")


def columns(names: Iterable[str], longest: int, width: int) -> bytes:
    """Arrange names in columns; a width of 0 means one line."""
    column = longest + _GAP
    output, position, last = bytearray(), 0, 0
    for name in map(encode, names):
        if width and position and position + column > width:
            output += b"\n"
            position = 0
        elif last:
            output += b" " * (column - last)
        output += name
        last = len(name)
        position += column
    return bytes(output + b"\n" if position else output)


DIR = Command("flux-kvs dir", show, usage="[OPTIONS] [key]", summary="Show a directory", options=DIR_OPTIONS)
LS = Command("flux-kvs ls", ls, usage="[OPTIONS] [key...]", summary="List directories", options=LS_OPTIONS)
