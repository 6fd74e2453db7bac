"""J, a jobspec that its submitter signed (RFC 15, "Input to the IMP"), by the mechanism ``none``.

That mechanism is the only one that does not need flux-security. ``J`` is base64 of a header, base64 of the jobspec
and the word ``none``, separated by dots. The header has pairs of strings, each ended by a NUL; a value begins with
its type: ``version`` ``i1``, ``userid`` ``i1000``, ``mechanism`` ``snone``.
"""

from __future__ import annotations

import binascii
import re

from pytest_flux.protocol.errors import ProtocolError

_MAX_USERID = 2**32 - 1


def sign_none(jobspec: bytes, userid: int) -> str:
    """J for a jobspec of ``userid``, without proof."""
    header = b"version\0i1\0userid\0i%d\0mechanism\0snone\0" % userid
    return f"{_encode(header)}.{_encode(jobspec)}.none"


def unwrap_none(signed: str) -> tuple[bytes, int]:
    """The jobspec in J, and the user id that it claims. Raises ProtocolError for any other text."""
    parts = signed.split(".")
    if len(parts) != 3:
        raise ProtocolError("not a signed jobspec")
    header, payload, mechanism = parts
    if mechanism != "none":
        raise ProtocolError("jobspec is signed by a mechanism other than none")
    return _decode(payload), _userid(_decode(header))


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _decode(text: str) -> bytes:
    # binascii skips characters that are not base64; flux-core refuses them.
    if len(text) % 4 or not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text):
        raise ProtocolError("signed jobspec is not base64")
    try:
        return binascii.a2b_base64(text)
    except ValueError:
        raise ProtocolError("signed jobspec is not base64") from None


def _userid(header: bytes) -> int:
    fields = header.removesuffix(b"\0").split(b"\0")
    if len(fields) % 2:
        raise ProtocolError("signature header has a name without value")
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    if set(values) - {b"version", b"userid", b"mechanism"}:
        raise ProtocolError("signature header has an unknown field")
    if values.get(b"version") != b"i1" or values.get(b"mechanism") != b"snone":
        raise ProtocolError("signature header is not of version 1 and mechanism none")
    match = re.fullmatch(rb"i([0-9]{1,10})", values.get(b"userid", b""))
    if match is None or int(match[1]) > _MAX_USERID:
        raise ProtocolError("signature header has no valid userid")
    return int(match[1])
