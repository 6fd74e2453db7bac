"""What is in the rows of a `content.sqlite`, which may be as flux-core wrote it, or damaged."""

from __future__ import annotations

import errno
import json
from typing import Any

import lz4.block  # type: ignore[import-untyped]

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError

NOT_COMPRESSED = -1
"""The size of a blob that is stored as it is."""


def decode_object(size: object, data: object) -> bytes:
    """The blob in a row. FluxError EINVAL where the row is not as flux-core writes it."""
    if not isinstance(size, int) or not isinstance(data, (bytes, type(None))):
        raise FluxError(errno.EINVAL)
    if size == NOT_COMPRESSED:
        return data or b""
    # A block of LZ4 is at most 255 times smaller than what is in it.
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
    """The JSON value in a row; None where it is none. Long ago it was nothing but the reference of the root."""
    try:
        return json.loads(text or "")
    except (ValueError, TypeError):
        pass
    try:
        ref = text.decode() if isinstance(text, bytes) else text
        decode_blobref(ref)
    except (ProtocolError, UnicodeDecodeError):
        return None
    return {"version": 0, "rootref": ref, "sequence": 0, "timestamp": 0.0}
