"""Messages: flux-core's ``message.c``, ``request.c``, ``response.c`` and ``event.c``.

A ``flux_msg_t`` is a :class:`~pytest_flux.protocol.message.Message`.
"""

from __future__ import annotations

import errno
from typing import Any

from pytest_flux.bindings.ffi import NULL, chars, fail, put, text
from pytest_flux.bindings.handle import Handle, matches, send
from pytest_flux.bindings.library import function
from pytest_flux.protocol.message import (
    CONTROL,
    EVENT,
    FLAG_NORESPONSE,
    FLAG_PRIVATE,
    FLAG_STREAMING,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_LOCAL,
    ROLE_NONE,
    ROLE_OWNER,
    USERID_UNKNOWN,
    Message,
)

_TYPES = {REQUEST: "request", RESPONSE: "response", EVENT: "event", CONTROL: "control"}
_STREAMING_FLAGS = FLAG_STREAMING | FLAG_NORESPONSE


def payload_string(message: Message) -> bytes | None:
    """The payload as string, with its NUL. Raises OSError EPROTO if it is not one."""
    payload = message.payload
    if not payload:
        return None
    if payload[-1]:
        raise OSError(errno.EPROTO, "payload is not a string")
    return payload


def as_payload(value: Any) -> bytes | None:
    """The payload for a ``const char *``: the string with its NUL (RFC 3)."""
    if value is NULL or value is None:
        return None
    if not isinstance(value, (bytes, bytearray)):
        raise TypeError(f"initializer for ctype 'char *' must be a cdata pointer, not {type(value).__name__}")
    return bytes(value).partition(b"\0")[0] + b"\0"


def request(topic: Any, payload: bytes | None) -> Message:
    """A request to any rank. Raises OSError EINVAL without a topic."""
    name = text(topic)
    if name is None:
        raise OSError(errno.EINVAL, "a request needs a topic")
    return Message(REQUEST, name, payload, aux1=NODEID_ANY, routes=[])


# -- making and copying


@function("int -> flux_msg_t *")
def flux_msg_create(type: int) -> Any:
    """Make a message: flux_msg_create(3)."""
    if type not in _TYPES:
        return fail(errno.EINVAL, NULL)
    return Message(type, aux1=NODEID_ANY if type == REQUEST else 0)


@function("flux_msg_t * -> void")
def flux_msg_destroy(msg: Any) -> None:
    """Drop a reference: flux_msg_create(3). Python keeps count."""


@function("flux_msg_t * -> flux_msg_t *")
def flux_msg_incref(msg: Message) -> Message:
    """Take a reference: flux_msg_create(3). Python keeps count."""
    return msg


@function("flux_msg_t * -> void")
def flux_msg_decref(msg: Any) -> None:
    """Drop a reference: flux_msg_create(3). Python keeps count."""


@function("flux_msg_t *, bool -> flux_msg_t *")
def flux_msg_copy(msg: Message, payload: bool) -> Message:
    """Copy a message: flux_msg_create(3)."""
    copy = msg.copy()
    if not payload:
        copy.payload = None
    return copy


@function("int -> char *")
def flux_msg_typestr(type: int) -> bytes:
    """The name of a type: flux_msg_create(3)."""
    return chars(next((name for bit, name in _TYPES.items() if type & bit), "unknown"))


# -- parts


@function("flux_msg_t *, int * -> int")
def flux_msg_get_type(msg: Message, type: Any) -> int:
    """The type: message.h."""
    type[0] = msg.type
    return 0


@function("flux_msg_t *, int -> int")
def flux_msg_set_type(msg: Message, type: int) -> int:
    """Set the type, and what depends on it to its defaults: message.h."""
    if type not in _TYPES:
        return int(fail(errno.EINVAL))
    msg.type = type
    msg.aux1 = NODEID_ANY if type == REQUEST else 0
    msg.aux2 = 0
    return 0


@function("flux_msg_t *, char ** -> int")
def flux_msg_get_topic(msg: Message, topic: Any) -> int:
    """The topic: message.h."""
    if msg.topic is None:
        return int(fail(errno.EPROTO))
    topic[0] = chars(msg.topic)
    return 0


@function("flux_msg_t *, char * -> int")
def flux_msg_set_topic(msg: Message, topic: Any) -> int:
    """Set the topic: message.h."""
    msg.topic = text(topic)
    return 0


@function("flux_msg_t * -> bool")
def flux_msg_has_payload(msg: Message) -> bool:
    """Whether there is a payload: message.h."""
    return msg.payload is not None


@function("flux_msg_t *, void **, size_t * -> int")
def flux_msg_get_payload(msg: Message, buf: Any, size: Any) -> int:
    """The payload: message.h."""
    if msg.payload is None:
        return int(fail(errno.EPROTO))
    put(buf, msg.payload)
    put(size, len(msg.payload))
    return 0


@function("flux_msg_t *, void *, size_t -> int")
def flux_msg_set_payload(msg: Message, buf: Any, size: int) -> int:
    """Set the payload: message.h."""
    msg.payload = None if buf is NULL else bytes(buf[:size])
    return 0


@function("flux_msg_t *, char ** -> int")
def flux_msg_get_string(msg: Message, s: Any) -> int:
    """The payload as string, NULL if there is none: message.h."""
    try:
        string = payload_string(msg)
    except OSError:
        return int(fail(errno.EPROTO))
    s[0] = NULL if string is None else string
    return 0


@function("flux_msg_t *, char * -> int")
def flux_msg_set_string(msg: Message, s: Any) -> int:
    """Set the payload to a string: message.h."""
    msg.payload = as_payload(s)
    return 0


@function("flux_msg_t *, uint32_t * -> int")
def flux_msg_get_userid(msg: Message, userid: Any) -> int:
    """The sender: message.h."""
    userid[0] = msg.userid
    return 0


@function("flux_msg_t *, uint32_t -> int")
def flux_msg_set_userid(msg: Message, userid: int) -> int:
    """Set the sender: message.h."""
    msg.userid = userid
    return 0


@function("flux_msg_t *, uint32_t * -> int")
def flux_msg_get_rolemask(msg: Message, rolemask: Any) -> int:
    """The roles of the sender: message.h."""
    rolemask[0] = msg.rolemask
    return 0


@function("flux_msg_t *, uint32_t -> int")
def flux_msg_set_rolemask(msg: Message, rolemask: int) -> int:
    """Set the roles of the sender: message.h."""
    msg.rolemask = rolemask
    return 0


@function("flux_msg_t *, uint32_t -> int")
def flux_msg_authorize(msg: Message, userid: int) -> int:
    """Whether the sender is a user or the owner of the instance: message.h."""
    if msg.rolemask & ROLE_OWNER or (msg.rolemask and msg.userid == userid != USERID_UNKNOWN):
        return 0
    return int(fail(errno.EPERM))


@function("flux_msg_t * -> bool")
def flux_msg_is_local(msg: Message) -> bool:
    """Whether a message was sent at this broker: message.h."""
    return bool(msg.rolemask & ROLE_LOCAL)


@function("flux_msg_t *, uint32_t * -> int")
def flux_msg_get_nodeid(msg: Message, nodeid: Any) -> int:
    """The rank that a request is for: message.h."""
    if msg.type != REQUEST:
        return int(fail(errno.EPROTO))
    nodeid[0] = msg.aux1
    return 0


@function("flux_msg_t *, uint32_t -> int")
def flux_msg_set_nodeid(msg: Message, nodeid: int) -> int:
    """Set the rank that a request is for: message.h."""
    if msg.type != REQUEST or nodeid == 0xFFFFFFFE:
        return int(fail(errno.EINVAL))
    msg.aux1 = nodeid
    return 0


@function("flux_msg_t *, int * -> int")
def flux_msg_get_errnum(msg: Message, errnum: Any) -> int:
    """The errno of a response: message.h."""
    if msg.type != RESPONSE:
        return int(fail(errno.EPROTO))
    errnum[0] = msg.aux1
    return 0


@function("flux_msg_t *, int -> int")
def flux_msg_set_errnum(msg: Message, errnum: int) -> int:
    """Set the errno of a response: message.h."""
    if msg.type != RESPONSE:
        return int(fail(errno.EINVAL))
    msg.aux1 = errnum
    return 0


@function("flux_msg_t *, uint32_t * -> int")
def flux_msg_get_seq(msg: Message, seq: Any) -> int:
    """The sequence number of an event: message.h."""
    if msg.type != EVENT:
        return int(fail(errno.EPROTO))
    seq[0] = msg.aux1
    return 0


@function("flux_msg_t *, uint32_t * -> int")
def flux_msg_get_matchtag(msg: Message, matchtag: Any) -> int:
    """The matchtag of a request or a response: message.h."""
    if msg.type not in (REQUEST, RESPONSE):
        return int(fail(errno.EPROTO))
    matchtag[0] = msg.aux2
    return 0


@function("flux_msg_t *, uint32_t -> int")
def flux_msg_set_matchtag(msg: Message, matchtag: int) -> int:
    """Set the matchtag of a request or a response: message.h."""
    if msg.type not in (REQUEST, RESPONSE):
        return int(fail(errno.EINVAL))
    msg.aux2 = matchtag
    return 0


@function("flux_msg_t *, int -> bool")
def flux_msg_has_flag(msg: Message, flag: int) -> bool:
    """Whether a flag is set: flux_msg_has_flag(3)."""
    return bool(msg.flags & flag)


@function("flux_msg_t *, int -> int")
def flux_msg_set_flag(msg: Message, flag: int) -> int:
    """Set a flag: flux_msg_has_flag(3)."""
    if flag & _STREAMING_FLAGS:
        msg.flags &= ~_STREAMING_FLAGS
    msg.flags |= flag
    return 0


@function("flux_msg_t *, int -> int")
def flux_msg_clear_flag(msg: Message, flag: int) -> int:
    """Clear a flag: flux_msg_has_flag(3)."""
    msg.flags &= ~flag
    return 0


@function("flux_msg_t * -> bool")
def flux_msg_is_private(msg: Message) -> bool:
    """Whether an event is for the owner only: flux_msg_has_flag(3)."""
    return bool(msg.flags & FLAG_PRIVATE)


@function("flux_msg_t * -> int")
def flux_msg_set_private(msg: Message) -> int:
    """Make an event for the owner only: flux_msg_has_flag(3)."""
    return flux_msg_set_flag(msg, FLAG_PRIVATE)


@function("flux_msg_t * -> bool")
def flux_msg_is_streaming(msg: Message) -> bool:
    """Whether there are several responses: flux_msg_has_flag(3)."""
    return bool(msg.flags & FLAG_STREAMING)


@function("flux_msg_t * -> int")
def flux_msg_set_streaming(msg: Message) -> int:
    """Ask for several responses: flux_msg_has_flag(3)."""
    return flux_msg_set_flag(msg, FLAG_STREAMING)


@function("flux_msg_t * -> bool")
def flux_msg_is_noresponse(msg: Message) -> bool:
    """Whether no response is wanted: flux_msg_has_flag(3)."""
    return bool(msg.flags & FLAG_NORESPONSE)


@function("flux_msg_t * -> int")
def flux_msg_set_noresponse(msg: Message) -> int:
    """Ask for no response: flux_msg_has_flag(3)."""
    return flux_msg_set_flag(msg, FLAG_NORESPONSE)


@function("flux_msg_t *, struct flux_match -> bool")
def flux_msg_cmp(msg: Message, match: Any) -> bool:
    """Whether a message matches: flux_msg_cmp(3)."""
    return matches(msg, match)


@function("flux_msg_t *, uint32_t -> bool")
def flux_msg_cmp_matchtag(msg: Message, matchtag: int) -> bool:
    """Whether a message has a matchtag of ours: flux_msg_cmp(3)."""
    return not msg.routes and msg.type in (REQUEST, RESPONSE) and msg.matchtag == matchtag


# -- routes


@function("flux_msg_t * -> void")
def flux_msg_route_enable(msg: Message) -> None:
    """Give a message room for routes: message.h."""
    msg.routes = msg.routes or []


@function("flux_msg_t * -> void")
def flux_msg_route_disable(msg: Message) -> None:
    """Take the routes away: message.h."""
    msg.routes = None


@function("flux_msg_t * -> void")
def flux_msg_route_clear(msg: Message) -> None:
    """Forget the routes: message.h."""
    msg.routes = None if msg.routes is None else []


@function("flux_msg_t *, char * -> int")
def flux_msg_route_push(msg: Message, id: Any) -> int:
    """Add a hop: message.h."""
    name = text(id)
    if name is None:
        return int(fail(errno.EINVAL))
    if msg.routes is None:
        return int(fail(errno.EPROTO))
    msg.routes.append(name)
    return 0


@function("flux_msg_t * -> int")
def flux_msg_route_delete_last(msg: Message) -> int:
    """Take the last hop away: message.h."""
    if msg.routes is None:
        return int(fail(errno.EPROTO))
    if msg.routes:
        msg.routes.pop()
    return 0


@function("flux_msg_t * -> char *")
def flux_msg_route_first(msg: Message) -> Any:
    """The first hop, the sender: message.h."""
    return chars(msg.routes[0]) if msg.routes else NULL


@function("flux_msg_t * -> char *")
def flux_msg_route_last(msg: Message) -> Any:
    """The last hop: message.h."""
    return chars(msg.routes[-1]) if msg.routes else NULL


@function("flux_msg_t * -> int")
def flux_msg_route_count(msg: Message) -> int:
    """The number of hops: message.h."""
    return int(fail(errno.EPROTO)) if msg.routes is None else len(msg.routes)


@function("flux_msg_t * -> char *")
def flux_msg_route_string(msg: Message) -> Any:
    """The hops, the first eight letters of each: message.h."""
    if msg.routes is None:
        return fail(errno.EPROTO, NULL)
    return chars("!".join(route[:8] for route in msg.routes))


# -- requests


@function("char *, char * -> flux_msg_t *")
def flux_request_encode(topic: Any, s: Any) -> Any:
    """Make a request: flux_request_encode(3)."""
    payload = as_payload(s)
    try:
        return request(topic, payload)
    except OSError as error:
        return fail(error.errno or errno.EINVAL, NULL)


@function("char *, void *, size_t -> flux_msg_t *")
def flux_request_encode_raw(topic: Any, data: Any, size: int) -> Any:
    """Make a request with bytes: flux_request_encode(3)."""
    try:
        return request(topic, None if data is NULL else bytes(data[:size]))
    except OSError as error:
        return fail(error.errno or errno.EINVAL, NULL)


def _decode(msg: Any, type: int, topic: Any, s: Any) -> int:
    """Check the type of a message, and give its topic and its string."""
    if msg is NULL:
        return int(fail(errno.EINVAL))
    if msg.type != type or msg.topic is None:
        return int(fail(errno.EPROTO))
    if type == RESPONSE and msg.errnum:
        return int(fail(msg.errnum))
    if s is not NULL and s is not None and flux_msg_get_string(msg, s) < 0:
        return -1
    put(topic, chars(msg.topic))
    return 0


def _decode_raw(msg: Any, type: int, topic: Any, data: Any, size: Any) -> int:
    if _decode(msg, type, topic, NULL) < 0:
        return -1
    put(data, NULL if msg.payload is None else msg.payload)
    put(size, len(msg.payload or b""))
    return 0


@function("flux_msg_t *, char **, char ** -> int")
def flux_request_decode(msg: Any, topic: Any, s: Any) -> int:
    """The topic and the string of a request: flux_request_decode(3)."""
    return _decode(msg, REQUEST, topic, s)


@function("flux_msg_t *, char **, void **, size_t * -> int")
def flux_request_decode_raw(msg: Any, topic: Any, data: Any, size: Any) -> int:
    """The topic and the bytes of a request: flux_request_decode(3)."""
    return _decode_raw(msg, REQUEST, topic, data, size)


# -- responses


def derive(msg: Message, errnum: int, payload: bytes | None) -> Message:
    """The response to a request. The credentials are for the broker to fill in."""
    response = msg.response(payload, errnum)
    response.userid, response.rolemask = USERID_UNKNOWN, ROLE_NONE
    return response


@function("flux_msg_t *, char **, char ** -> int")
def flux_response_decode(msg: Any, topic: Any, s: Any) -> int:
    """The topic and the string of a response, or its error: flux_response_decode(3)."""
    return _decode(msg, RESPONSE, topic, s)


@function("flux_msg_t *, char **, void **, size_t * -> int")
def flux_response_decode_raw(msg: Any, topic: Any, data: Any, size: Any) -> int:
    """The topic and the bytes of a response, or its error: flux_response_decode(3)."""
    return _decode_raw(msg, RESPONSE, topic, data, size)


@function("flux_msg_t *, char ** -> int")
def flux_response_decode_error(msg: Any, errstr: Any) -> int:
    """The text of an error response: flux_response_decode(3)."""
    if msg is NULL or errstr is NULL:
        return int(fail(errno.EINVAL))
    if msg.type != RESPONSE:
        return int(fail(errno.EPROTO))
    if not msg.errnum or not msg.payload:
        return int(fail(errno.ENOENT))
    return flux_msg_get_string(msg, errstr)


@function("char *, char * -> flux_msg_t *")
def flux_response_encode(topic: Any, s: Any) -> Any:
    """Make a response: response.h."""
    name = text(topic)
    return fail(errno.EINVAL, NULL) if name is None else Message(RESPONSE, name, as_payload(s), routes=[])


@function("char *, int, char * -> flux_msg_t *")
def flux_response_encode_error(topic: Any, errnum: int, errstr: Any) -> Any:
    """Make an error response: response.h."""
    name = text(topic)
    if name is None or not errnum:
        return fail(errno.EINVAL, NULL)
    return Message(RESPONSE, name, as_payload(errstr), aux1=errnum, routes=[])


@function("flux_msg_t *, int -> flux_msg_t *")
def flux_response_derive(request: Any, errnum: int) -> Any:
    """Make the response to a request: response.h."""
    if request is NULL or not request.wants_response:
        return fail(errno.EINVAL, NULL)
    return derive(request, errnum, None)


def respond(h: Handle, request: Any, payload: bytes | None, errnum: int = 0) -> int:
    """Answer a request, unless its sender wants no answer."""
    if request is NULL:
        return int(fail(errno.EINVAL))
    return send(h, derive(request, errnum, payload)) if request.wants_response else 0


@function("flux_t *, flux_msg_t *, char * -> int")
def flux_respond(h: Handle, request: Any, s: Any) -> int:
    """Answer a request: flux_respond(3)."""
    return respond(h, request, as_payload(s))


@function("flux_t *, flux_msg_t *, void *, int -> int")
def flux_respond_raw(h: Handle, request: Any, data: Any, size: int) -> int:
    """Answer a request with bytes: flux_respond(3)."""
    return respond(h, request, None if data is NULL else bytes(data[:size]))


@function("flux_t *, flux_msg_t *, int, char * -> int")
def flux_respond_error(h: Handle, request: Any, errnum: int, errstr: Any) -> int:
    """Answer a request with an error: flux_respond(3)."""
    return respond(h, request, as_payload(errstr), errnum or errno.EINVAL)


# -- events


def event(topic: Any, payload: bytes | None) -> Any:
    """An event, or NULL with errno set."""
    name = text(topic)
    return fail(errno.EINVAL, NULL) if name is None else Message(EVENT, name, payload, routes=[])


@function("char *, char * -> flux_msg_t *")
def flux_event_encode(topic: Any, s: Any) -> Any:
    """Make an event: flux_event_encode(3)."""
    return event(topic, as_payload(s))


@function("char *, void *, size_t -> flux_msg_t *")
def flux_event_encode_raw(topic: Any, data: Any, size: int) -> Any:
    """Make an event with bytes: flux_event_encode(3)."""
    return event(topic, None if data is NULL else bytes(data[:size]))


@function("flux_msg_t *, char **, char ** -> int")
def flux_event_decode(msg: Any, topic: Any, s: Any) -> int:
    """The topic and the string of an event: flux_event_decode(3)."""
    return _decode(msg, EVENT, topic, s)


@function("flux_msg_t *, char **, void **, size_t * -> int")
def flux_event_decode_raw(msg: Any, topic: Any, data: Any, size: Any) -> int:
    """The topic and the bytes of an event: flux_event_decode(3)."""
    return _decode_raw(msg, EVENT, topic, data, size)
