"""Messages (RFC 3, "Common Message Format"): one message to bytes and back.

As in flux-core, two things differ from the RFC's text: topics and route identifiers have no trailing NUL on the wire
(only string payloads do), and the most recently pushed route comes first.
"""

from __future__ import annotations

import struct

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_value import compact, decode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST = 1
RESPONSE = 2
EVENT = 4
CONTROL = 8

FLAG_TOPIC = 0x01
FLAG_PAYLOAD = 0x02
FLAG_NORESPONSE = 0x04
FLAG_ROUTE = 0x08
FLAG_UPSTREAM = 0x10
FLAG_PRIVATE = 0x20
FLAG_STREAMING = 0x40
FLAG_USER1 = 0x80

USERID_UNKNOWN = 0xFFFFFFFF
NODEID_ANY = 0xFFFFFFFF
MATCHTAG_NONE = 0

ROLE_NONE = 0
ROLE_OWNER = 1
ROLE_USER = 2
ROLE_LOCAL = 4
ROLE_ADMIN = 8

_PROTO = struct.Struct(">BBBBIIII")
_MAGIC = 0x8E
_VERSION = 1
_TYPES = frozenset((REQUEST, RESPONSE, EVENT, CONTROL))
_STORED_FLAGS = FLAG_NORESPONSE | FLAG_UPSTREAM | FLAG_PRIVATE | FLAG_STREAMING | FLAG_USER1
_LONG_PART = 255
_LARGE = 1 << 16
_SHORT_SIZES = [bytes([size]) for size in range(_LONG_PART)]
# Most parts are routes, one for each hop. Without a limit, each byte of a hostile message would become an object.
_MAX_PARTS = 2**16


def encode_text(text: str | None) -> bytes | None:
    """The payload of an error response. The text may quote a request that has half a surrogate pair."""
    return text.encode("utf-8", "replace") + b"\0" if text else None


def encode_json(value: dict[str, Any]) -> bytes:
    """A JSON object as payload (RFC 3, "Payload Conventions"): compact, with a NUL that its size includes."""
    return compact(value).encode("utf-8", "surrogatepass") + b"\0"


class Message:
    """One message (RFC 3, "Optional Message Parts" and "Required Message Parts").

    ``routes`` is None if the message has no route part; otherwise it has the identifiers of the hops, the original
    sender first, so that ``routes.append`` pushes and ``routes.pop`` pops. ``aux1`` and ``aux2`` are
    the two words whose meaning depends on the type; the properties give them their names.
    """

    __slots__ = ("aux1", "aux2", "flags", "payload", "rolemask", "routes", "topic", "type", "userid")

    def __init__(
        self,
        type: int,
        topic: str | None = None,
        payload: bytes | None = None,
        *,
        flags: int = 0,
        userid: int = USERID_UNKNOWN,
        rolemask: int = ROLE_NONE,
        aux1: int = 0,
        aux2: int = 0,
        routes: list[str] | None = None,
    ) -> None:
        self.type = type
        self.topic = topic
        self.payload = payload
        self.flags = flags & _STORED_FLAGS
        self.userid = userid
        self.rolemask = rolemask
        self.aux1 = aux1
        self.aux2 = aux2
        self.routes = routes

    @property
    def nodeid(self) -> int:
        """Target rank of a request, or NODEID_ANY."""
        return self.aux1

    @property
    def errnum(self) -> int:
        """Linux errno of a response; 0 is success."""
        return self.aux1

    @property
    def sequence(self) -> int:
        """Sequence number of an event, given by rank 0."""
        return self.aux1

    @property
    def matchtag(self) -> int:
        """Pairs a response with its request (RFC 6, "Matchtag Field"); MATCHTAG_NONE if no response is wanted."""
        return self.aux2

    @property
    def is_streaming(self) -> bool:
        """Whether the request, or that of the response, asks for several responses (RFC 6, "Streaming Responses")."""
        return bool(self.flags & FLAG_STREAMING)

    @property
    def wants_response(self) -> bool:
        """Whether the sender of a request waits for an answer."""
        return not self.flags & FLAG_NORESPONSE

    def json(self) -> dict[str, Any]:
        """The payload as JSON object. Raises ProtocolError if there is no payload, or it is not an object."""
        if not self.payload:
            raise ProtocolError("message has no JSON payload", self.topic or "")
        try:
            value = decode_json(_text(self.payload))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"payload is not JSON ({error})", self.topic or "") from None
        if not isinstance(value, dict):
            raise ProtocolError("payload is not a JSON object", self.topic or "")
        return value

    def text(self) -> str | None:
        """The text of an error response, if it has one (RFC 6, "Response Messages")."""
        return (self.payload or b"").rstrip(b"\0").decode("utf-8", "replace") or None

    def copy(self) -> Message:
        """A copy with separate routes, so that one hop can change them without the others seeing it."""
        return Message(
            self.type,
            self.topic,
            self.payload,
            flags=self.flags,
            userid=self.userid,
            rolemask=self.rolemask,
            aux1=self.aux1,
            aux2=self.aux2,
            routes=None if self.routes is None else list(self.routes),
        )

    def response(self, payload: bytes | None = None, errnum: int = 0) -> Message:
        """A response to this request, which stays as it is: same topic, matchtag, flags and routes (RFC 6)."""
        return Message(
            RESPONSE,
            self.topic,
            payload,
            flags=self.flags,
            userid=self.userid,
            rolemask=self.rolemask,
            aux1=errnum,
            aux2=self.aux2,
            routes=[] if self.routes is None else list(self.routes),
        )

    def encode(self) -> bytes:
        """The wire form: parts with their sizes, the proto part last. No stream framing."""
        return b"".join(self.pieces())

    def pieces(self) -> list[bytes]:
        """The wire form in pieces: a payload may be large, and is not copied."""
        flags = self.flags
        parts: list[bytes] = []
        if self.routes is not None:
            flags |= FLAG_ROUTE
            parts.extend(route.encode() for route in reversed(self.routes))
            parts.append(b"")
        if self.topic is not None:
            flags |= FLAG_TOPIC
            parts.append(self.topic.encode("utf-8", "surrogatepass"))
        if self.payload is not None:
            flags |= FLAG_PAYLOAD
            parts.append(self.payload)
        proto = _PROTO.pack(_MAGIC, _VERSION, self.type, flags, self.userid, self.rolemask, self.aux1, self.aux2)
        parts.append(proto)
        out: list[bytes] = []
        for part in parts:
            size = len(part)
            out.append(_SHORT_SIZES[size] if size < _LONG_PART else b"\xff" + size.to_bytes(4, "big"))
            out.append(part)
        return out

    def __repr__(self) -> str:
        kind = {REQUEST: "request", RESPONSE: "response", EVENT: "event", CONTROL: "control"}[self.type]
        return f"<{kind} {self.topic} aux=({self.aux1}, {self.aux2}) routes={self.routes} payload={self.payload!r}>"


def _text(payload: bytes) -> bytes | memoryview:
    """A payload without its trailing NULs; a large one is not copied."""
    if len(payload) < _LARGE:
        return payload.rstrip(b"\0")
    end = len(payload)
    while end and not payload[end - 1]:
        end -= 1
    return memoryview(payload)[:end]


def _split(data: bytes | memoryview) -> list[bytes]:
    parts: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        size = data[position]
        position += 1
        if size == _LONG_PART:
            if position + 4 > end:
                raise ProtocolError("message part size is cut short", f"byte {position}")
            size = int.from_bytes(data[position : position + 4], "big")
            position += 4
        if size > end - position:
            raise ProtocolError(f"message part of {size} bytes runs past the end", f"byte {position}")
        if len(parts) == _MAX_PARTS:
            raise ProtocolError(f"message of more than {_MAX_PARTS} parts")
        part = data[position : position + size]
        parts.append(part if isinstance(part, bytes) else bytes(part))
        position += size
    return parts


def decode_message(data: bytes | memoryview) -> Message:
    """One whole encoded message. Raises ProtocolError if it breaks RFC 3 (errno EPROTO in Flux's terms)."""
    parts = _split(data)
    if not parts or len(parts[-1]) != _PROTO.size:
        raise ProtocolError("message does not end in a proto part of 20 bytes")
    magic, version, kind, flags, userid, rolemask, aux1, aux2 = _PROTO.unpack(parts.pop())
    if magic != _MAGIC or version != _VERSION:
        raise ProtocolError(f"magic {magic:#x} version {version} is not a Flux message")
    if kind not in _TYPES:
        raise ProtocolError(f"unknown message type {kind}")
    if flags & FLAG_NORESPONSE and flags & FLAG_STREAMING:
        raise ProtocolError("message is both streaming and without response")
    try:
        index, routes = _take_routes(parts) if flags & FLAG_ROUTE else (0, None)
        topic = payload = None
        if flags & FLAG_TOPIC:
            topic, index = parts[index].decode(), index + 1
        if flags & FLAG_PAYLOAD:
            payload = parts[index]
    except IndexError:
        raise ProtocolError("message lacks a part that its flags promise") from None
    except UnicodeDecodeError:
        raise ProtocolError("topic or route is not UTF-8") from None
    return Message(
        kind,
        topic,
        payload,
        flags=flags,
        userid=userid,
        rolemask=rolemask,
        aux1=aux1,
        aux2=aux2,
        routes=routes,
    )


def _take_routes(parts: list[bytes]) -> tuple[int, list[str]]:
    delimiter = parts.index(b"") if b"" in parts else len(parts)
    routes = [part.decode() for part in parts[:delimiter]]
    if delimiter == len(parts):
        raise ProtocolError("message has routes without delimiter")
    routes.reverse()
    return delimiter + 1, routes
