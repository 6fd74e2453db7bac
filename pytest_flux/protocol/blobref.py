"""Blobrefs (RFC 10, "Address"): a blob is named after the hash of its bytes, `sha1-<hex>` or `sha256-<hex>`."""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST_SIZES = {"sha1": 20, "sha256": 32}
"""Hash functions that name blobs, and the bytes of their digests."""

MAX_STRING_SIZE = 72
"""Size of flux-core's buffer for a blobref. A KVS value whose base64 text is longer becomes a blob."""

_HEX = frozenset("0123456789abcdef")


def hasher(name: str) -> Callable[[bytes], bytes]:
    """The function from a blob to its digest. Raises ProtocolError for a hash that Flux does not know."""
    import hashlib

    if name not in DIGEST_SIZES:
        raise ProtocolError("unknown hash function", name)
    function = getattr(hashlib, name)
    return lambda data: bytes(function(data, usedforsecurity=False).digest())


def encode_blobref(name: str, digest: bytes) -> str:
    """The text of a blobref."""
    return f"{name}-{digest.hex()}"


def blobref_of(name: str, data: bytes) -> str:
    """The blobref of a blob."""
    return encode_blobref(name, hasher(name)(data))


def decode_blobref(text: object) -> bytes:
    """The digest in a blobref. Raises ProtocolError if it is not a blobref."""
    if not isinstance(text, str):
        raise ProtocolError("a blobref is a string", repr(text)[:80])
    name, _, digits = text.partition("-")
    if len(digits) != 2 * DIGEST_SIZES.get(name, -1) or not _HEX.issuperset(digits):
        raise ProtocolError("not a blobref", text[:80])
    return bytes.fromhex(digits)
