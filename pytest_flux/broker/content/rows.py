"""Decode the rows of a `content.sqlite`, which may be damaged or hostile."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import lz4.block  # type: ignore[import-untyped]

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

BLOB_MAX = (1 << 31) - 1
"""The largest blob, in bytes."""

NOT_COMPRESSED = -1
"""The size of a blob that is stored as it is."""


def decode_object(size: object, data: object, limit: int = BLOB_MAX) -> bytes:
    """The blob in a row. FluxError EINVAL if the row is not as flux-core writes it, EFBIG beyond ``limit``."""
    if isinstance(size, int) and size > limit:
        raise FluxError(errno.EFBIG, f"a blob of {size} bytes")
    if not isinstance(size, int) or not isinstance(data, (bytes, type(None))):
        raise FluxError(errno.EINVAL)
    if size == NOT_COMPRESSED:
        return data or b""
    # A block of LZ4 expands to at most 255 times its size.
    if not 0 <= size <= (len(data or b"") + 1) * 255:
        raise FluxError(errno.EINVAL)
    try:
        blob = lz4.block.decompress(data, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError):
        raise FluxError(errno.EINVAL) from None
    if len(blob) != size:
        raise FluxError(errno.EINVAL)
    return bytes(blob)


def decode_checkpoint(text: str | bytes | None) -> Any:  # noqa: ANN401 - JSON
    """The JSON value in a row; None if it is invalid. Old versions stored only the reference of the root."""
    try:
        return json.loads(text or "")
    except (ValueError, TypeError, RecursionError):
        pass
    try:
        ref = text.decode() if isinstance(text, bytes) else text
        decode_blobref(ref)
    except (ProtocolError, UnicodeDecodeError, TypeError):
        return None
    return {"version": 0, "rootref": ref, "sequence": 0, "timestamp": 0.0}


_COLUMNS = {
    "objects": {"hash", "size", "object", "epoch"},
    "checkpt_v2": {"id", "value"},
    "checkpt": {"key", "value"},
}
"""The tables that are read."""


def check_schema(query: Callable[[str], list[Any]], name: str) -> None:
    """FluxError EINVAL unless the tables are plain tables, whose use computes and changes nothing.

    A database may come from a stranger, and views, triggers, indices and computed columns can run for ever.
    """
    for kind, part, table, statement in query("SELECT type, name, tbl_name, sql FROM sqlite_master"):
        kind, part, table, text = (_text(value) for value in (kind, part, table, statement or ""))
        if kind == "table":
            is_plain = table not in _COLUMNS or (_begins(text) and _is_plain(query, table))
        else:
            # The indices that SQLite makes itself have no text.
            is_plain = kind == "index" and not text
        if not is_plain:
            raise FluxError(errno.EINVAL, f"{name}: {kind} {part!r:.80} is none of Flux's")


def _begins(text: str) -> bool:
    return text.upper().startswith("CREATE TABLE")


def _is_plain(query: Callable[[str], list[Any]], table: str) -> bool:
    return all(
        _text(column) in _COLUMNS[table] and not hidden and _text(default or "0") == "0"
        for _, column, _, _, default, _, hidden in query(f"PRAGMA table_xinfo({table})")
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
