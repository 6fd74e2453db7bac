"""A piece of a task's standard stream as JSON (RFC 24, "Data Event"; RFC 42, "I/O Object")."""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class StreamData(NamedTuple):
    """Bytes of one stream, and whether it ends after them. ``rank`` is an idset, or "all"."""

    stream: str
    rank: str
    data: bytes
    eof: bool


def encode_io(stream: str, rank: str, data: bytes = b"", *, eof: bool = False) -> dict[str, Any]:
    """The object. Bytes that are not UTF-8 become base64."""
    value: dict[str, Any] = {"stream": stream, "rank": rank}
    if data:
        try:
            value["data"] = data.decode()
        except UnicodeDecodeError:
            import base64

            value["encoding"] = "base64"
            value["data"] = base64.b64encode(data).decode()
    if eof:
        value["eof"] = True
    return value


def decode_io(value: object) -> StreamData:
    """The stream data in an object. Raises ProtocolError if it breaks RFC 24."""
    if not isinstance(value, dict):
        raise ProtocolError("io is not an object")
    stream, rank, text, eof = (value.get(key) for key in ("stream", "rank", "data", "eof"))
    if not isinstance(stream, str) or not isinstance(rank, str):
        raise ProtocolError("io lacks 'stream' or 'rank'")
    if not isinstance(text, (str, type(None))) or not isinstance(eof, (bool, type(None))):
        raise ProtocolError("io has 'data' or 'eof' of the wrong type")
    if text is None and not eof:
        raise ProtocolError("io has neither 'data' nor 'eof'")
    encoding = value.get("encoding")
    if encoding not in (None, "base64", "UTF-8"):
        raise ProtocolError("io has an unknown encoding", str(encoding))
    try:
        data = _decode_base64(text or "") if encoding == "base64" else (text or "").encode()
    except ValueError:
        raise ProtocolError("io data is not what its encoding says") from None
    return StreamData(stream, rank, data, bool(eof))


def _decode_base64(text: str) -> bytes:
    import base64

    return base64.b64decode(text, validate=True)
