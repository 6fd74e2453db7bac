"""Events and services: flux-core's ``event.c`` and ``service.c``."""

from __future__ import annotations

import errno
from binascii import b2a_base64
from typing import Any

from pytest_flux.bindings.constants import FLUX_NODEID_ANY, FLUX_O_TEST_NOSUB
from pytest_flux.bindings.ffi import NULL, fail, text
from pytest_flux.bindings.future import Future
from pytest_flux.bindings.handle import Handle
from pytest_flux.bindings.library import function
from pytest_flux.bindings.message import as_payload
from pytest_flux.bindings.rpc import call_json, response_member
from pytest_flux.protocol.message import FLAG_PRIVATE


def _named(h: Handle, service: str, member: str, name: Any, flags: int = 0) -> Any:
    value = text(name)
    if value is None:
        return fail(errno.EINVAL, NULL)
    return call_json(h, service, {member: value}, FLUX_NODEID_ANY, flags)


def _finish(future: Any) -> int:
    """Wait for a future that nobody else sees."""
    if future is NULL:
        return -1
    done = future.get() is not None
    future.destroy()
    return 0 if done else -1


@function("flux_t *, char *, int -> flux_future_t *")
def flux_event_subscribe_ex(h: Handle, topic: Any, flags: int) -> Any:
    """Subscribe to events: flux_event_subscribe(3)."""
    return _named(h, "event.subscribe", "topic", topic, flags)


@function("flux_t *, char *, int -> flux_future_t *")
def flux_event_unsubscribe_ex(h: Handle, topic: Any, flags: int) -> Any:
    """Take a subscription back: flux_event_subscribe(3)."""
    return _named(h, "event.unsubscribe", "topic", topic, flags)


@function("flux_t *, char * -> int")
def flux_event_subscribe(h: Handle, topic: Any) -> int:
    """Subscribe to events, and wait for that: flux_event_subscribe(3)."""
    return 0 if h.flags & FLUX_O_TEST_NOSUB else _finish(flux_event_subscribe_ex(h, topic, 0))


@function("flux_t *, char * -> int")
def flux_event_unsubscribe(h: Handle, topic: Any) -> int:
    """Take a subscription back, and wait for that: flux_event_subscribe(3)."""
    return 0 if h.flags & FLUX_O_TEST_NOSUB else _finish(flux_event_unsubscribe_ex(h, topic, 0))


def _publish(h: Handle, topic: Any, flags: int, payload: bytes | None) -> Any:
    name = text(topic)
    if name is None or flags & ~FLAG_PRIVATE:
        return fail(errno.EINVAL, NULL)
    request: dict[str, Any] = {"topic": name, "flags": flags}
    if payload is not None:
        request["payload"] = b2a_base64(payload, newline=False).decode()
    return call_json(h, "event.publish", request, 0)


@function("flux_t *, char *, int, char * -> flux_future_t *")
def flux_event_publish(h: Handle, topic: Any, flags: int, s: Any) -> Any:
    """Publish an event, and learn its sequence number: flux_event_publish(3)."""
    return _publish(h, topic, flags, as_payload(s))


@function("flux_t *, char *, int, void *, size_t -> flux_future_t *")
def flux_event_publish_raw(h: Handle, topic: Any, flags: int, data: Any, size: int) -> Any:
    """Publish an event with bytes: flux_event_publish(3)."""
    return _publish(h, topic, flags, None if data is NULL else bytes(data[:size]))


@function("flux_future_t *, int * -> int")
def flux_event_publish_get_seq(f: Future, seq: Any) -> int:
    """The sequence number of an event: flux_event_publish(3)."""
    value = response_member(f, "seq")
    if value is None:
        return -1
    seq[0] = value
    return 0


@function("flux_t *, char * -> flux_future_t *")
def flux_service_register(h: Handle, name: Any) -> Any:
    """Become a service: flux_service_register(3)."""
    return _named(h, "service.add", "service", name)


@function("flux_t *, char * -> flux_future_t *")
def flux_service_unregister(h: Handle, name: Any) -> Any:
    """Be a service no longer: flux_service_register(3)."""
    return _named(h, "service.remove", "service", name)
