"""The rows of a `content.sqlite`, in the schema of flux-core's content-sqlite module; they may be damaged."""

from __future__ import annotations

import errno
import json

import lz4.block  # type: ignore[import-untyped]

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

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
    # LZ4 compresses to a 255th at the best.
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
    """The JSON value in a row, None if it is damaged. Early versions of flux-core stored the root's blobref alone."""
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
"""The tables that we read, with their columns."""


def check_schema(query: Callable[[str], list[Any]], name: str) -> None:
    """Raise FluxError EINVAL unless the tables are plain ones, so that using them computes nothing.

    A database may come from anybody, and views, triggers, indices and generated columns can compute without end.
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
