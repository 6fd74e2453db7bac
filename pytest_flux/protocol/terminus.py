"""Data of a job's terminal, in the messages of flux-core's libterminus."""

from __future__ import annotations

import base64
import binascii

from pytest_flux.protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def encode_data(data: bytes) -> dict[str, Any]:
    """A message with these bytes: as text if they are UTF-8 without NUL (jansson refuses NUL), else in base64."""
    try:
        if b"\0" not in data:
            return {"type": "data", "data": data.decode()}
    except UnicodeDecodeError:
        pass
    return {"type": "data", "encoding": "base64", "data": base64.b64encode(data).decode()}


def decode_data(message: dict[str, Any]) -> bytes:
    """The bytes of such a message. Raises ProtocolError."""
    data, encoding = message.get("data"), message.get("encoding")
    if not isinstance(data, str) or encoding not in (None, "base64"):
        raise ProtocolError("no data of a terminal", str(encoding))
    try:
        return data.encode() if encoding is None else base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError("data of a terminal are neither Unicode nor base64") from None
