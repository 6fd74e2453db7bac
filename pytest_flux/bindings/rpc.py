"""Remote procedure calls: flux-core's ``rpc.c``."""

from __future__ import annotations

import errno
import time
from json import JSONEncoder
from typing import Any

from pytest_flux.bindings.constants import FLUX_NODEID_ANY, FLUX_NODEID_UPSTREAM
from pytest_flux.bindings.dispatch import Dispatch, dispatch_of
from pytest_flux.bindings.ffi import NULL, chars, fail, put, text, unsigned
from pytest_flux.bindings.future import Call, Future
from pytest_flux.bindings.handle import Handle, send
from pytest_flux.bindings.library import function
from pytest_flux.bindings.message import as_payload, payload_string
from pytest_flux.protocol.json_value import decode_json
from pytest_flux.protocol.message import (
    FLAG_NORESPONSE,
    FLAG_STREAMING,
    FLAG_UPSTREAM,
    MATCHTAG_NONE,
    REQUEST,
    RESPONSE,
    Message,
)

NORESPONSE, STREAMING = 1, 2
_IMMUTABLE = 1
_encode = JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Rpc(Call):
    """The way from the responses to a request to its future."""

    __slots__ = ("dispatch", "finished", "future", "streaming")

    def __init__(self, future: Future, matchtag: int, nodeid: int, *, streaming: bool) -> None:
        self.future = future
        self.matchtag = matchtag
        self.nodeid = nodeid
        self.streaming = streaming
        self.finished = False
        self.dispatch: Dispatch | None = None

    def initialize(self, future: Future) -> None:
        """Have the responses delivered by the dispatcher of the future's handle."""
        handle = future.get_flux()
        if not self.finished and handle is not None:
            self.dispatch = dispatch_of(handle)
            self.dispatch.calls[self.matchtag] = self
            self.dispatch.hold()

    def respond(self, message: Message) -> None:
        """Fulfill the future with a response."""
        errnum = message.aux1
        if errnum or not self.streaming:
            self.finish()
        if errnum:
            self.future.fulfill((errnum, message.text(), NULL))
        elif message.topic is None:
            self.future.fulfill((errno.EPROTO, None, NULL))
        else:
            self.future.fulfill((0, None, message))

    def finish(self) -> None:
        """Expect no more responses."""
        self.finished = True
        dispatch, self.dispatch = self.dispatch, None
        if dispatch is not None:
            del dispatch.calls[self.matchtag]
            dispatch.release()

    def wait(self, timeout: float) -> int:
        """Wait for a response, and leave all other messages where they are: 0, or -1 with errno set."""
        handle = self.future.handle
        if self.finished or handle is None:
            return int(fail(errno.EDEADLK))
        wire, matchtag = handle.wire, self.matchtag
        deadline = None if timeout < 0 else time.monotonic() + timeout
        messages, position = wire.messages, 0
        while True:
            while position < len(messages):
                message = messages[position]
                if message.aux2 == matchtag and message.type == RESPONSE and not message.routes:
                    del messages[position]
                    self.respond(message)
                    return 0
                position += 1
            if wire.error:
                return int(fail(wire.error))
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return int(fail(errno.ETIMEDOUT))
            wire.wait(remaining)


def call(handle: Any, message: Message, nodeid: int, flags: int) -> Any:
    """Send a request: the future of its response, or NULL with errno set."""
    if not isinstance(handle, Handle) or flags & ~(NORESPONSE | STREAMING):
        return fail(errno.EINVAL, NULL)
    unsigned(nodeid, 32)
    future = Future()
    future.set_flux(handle)
    if nodeid == FLUX_NODEID_UPSTREAM:
        rank = get_attribute(handle, "rank")
        if rank is None:
            return NULL
        nodeid = int(rank)
        message.flags |= FLAG_UPSTREAM
    message.aux1 = nodeid
    if flags & NORESPONSE:
        message.flags |= FLAG_NORESPONSE
        message.aux2 = MATCHTAG_NONE
        future.result = (0, None, NULL)
    else:
        message.flags |= FLAG_STREAMING if flags & STREAMING else 0
        message.aux2 = handle.wire.matchtag()
        rpc = Rpc(future, message.aux2, nodeid, streaming=bool(flags & STREAMING))
        future.rpc, future.init = rpc, rpc.initialize
    return NULL if send(handle, message) < 0 else future


def call_json(
    handle: Handle, topic: str, payload: dict[str, Any], nodeid: int = FLUX_NODEID_ANY, flags: int = 0
) -> Any:
    """Send a request with a JSON object: the future of its response, or NULL with errno set."""
    data = chars(_encode(payload)) + b"\0"
    return call(handle, Message(REQUEST, topic, data, routes=[]), nodeid, flags)


def response_json(future: Future) -> dict[str, Any] | None:
    """The JSON object of a response, once it is here; None, with errno set, if that fails."""
    message = future.get()
    if message is None:
        return None
    try:
        value = decode_json((message.payload or b"").rstrip(b"\0"))
    except (AttributeError, ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else fail(errno.EPROTO, None)


def response_member(future: Future, name: str) -> Any:
    """One member of the JSON object of a response; None, with errno set, if that fails."""
    value = response_json(future)
    if value is None:
        return None
    found = value.get(name)
    return fail(errno.EPROTO, None) if found is None else found


def get_attribute(handle: Handle, name: str) -> str | None:
    """The value of an attribute; None, with errno set, if there is none. What never changes is asked for once."""
    known = handle.aux.setdefault("attributes", {})
    if name in known:
        return str(known[name])
    future = call_json(handle, "attr.get", {"name": name})
    if future is NULL:
        return None
    answer = response_json(future)
    future.destroy()
    if answer is None:
        return None
    value = str(answer.get("value", ""))
    if answer.get("flags", 0) & _IMMUTABLE:
        known[name] = value
    return value


@function("flux_t *, char *, char *, uint32_t, int -> flux_future_t *")
def flux_rpc(h: Handle, topic: Any, s: Any, nodeid: int, flags: int) -> Any:
    """Send a request with a string: flux_rpc(3)."""
    payload = as_payload(s)
    name = text(topic)
    if name is None:
        return fail(errno.EINVAL, NULL)
    return call(h, Message(REQUEST, name, payload, routes=[]), nodeid, flags)


@function("flux_t *, char *, void *, size_t, uint32_t, int -> flux_future_t *")
def flux_rpc_raw(h: Handle, topic: Any, data: Any, size: int, nodeid: int, flags: int) -> Any:
    """Send a request with bytes: flux_rpc(3)."""
    name = text(topic)
    if name is None:
        return fail(errno.EINVAL, NULL)
    payload = None if data is NULL else bytes(data[:size])
    return call(h, Message(REQUEST, name, payload, routes=[]), nodeid, flags)


@function("flux_t *, flux_msg_t *, uint32_t, int -> flux_future_t *")
def flux_rpc_message(h: Handle, msg: Message, nodeid: int, flags: int) -> Any:
    """Send a request that was made before: flux_rpc(3)."""
    return call(h, msg.copy(), nodeid, flags)


@function("flux_future_t *, char ** -> int")
def flux_rpc_get(f: Future, s: Any) -> int:
    """The string of a response: flux_rpc(3)."""
    message = f.get()
    if message is None:
        return -1
    if message is NULL:
        return int(fail(errno.EINVAL))
    try:
        string = payload_string(message)
    except OSError:
        return int(fail(errno.EPROTO))
    put(s, NULL if string is None else string)
    return 0


@function("flux_future_t *, void **, size_t * -> int")
def flux_rpc_get_raw(f: Future, data: Any, size: Any) -> int:
    """The bytes of a response: flux_rpc(3)."""
    message = f.get()
    if message is None:
        return -1
    if message is NULL:
        return int(fail(errno.EINVAL))
    payload = message.payload
    put(data, NULL if payload is None else payload)
    put(size, len(payload or b""))
    return 0


@function("flux_future_t * -> uint32_t")
def flux_rpc_get_matchtag(f: Future) -> int:
    """The matchtag of a request: flux_rpc(3)."""
    return MATCHTAG_NONE if f.rpc is None else f.rpc.matchtag


@function("flux_future_t * -> uint32_t")
def flux_rpc_get_nodeid(f: Future) -> int:
    """The rank that a request was sent to: flux_rpc(3)."""
    return FLUX_NODEID_ANY if f.rpc is None else f.rpc.nodeid
