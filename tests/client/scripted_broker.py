"""A small broker in a thread, for clients to talk to: real sockets and messages, answers that the test decides."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_flux.protocol.message import (
    EVENT,
    FLAG_PRIVATE,
    REQUEST,
    RESPONSE,
    ROLE_OWNER,
    Message,
    encode_json,
)
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.usock import Connection, UsockServer, owner_only

Handler = Callable[["ScriptedBroker", Connection, Message], None]

ATTRIBUTES = {
    "rank": "0",
    "size": "4",
    "hostlist": "node[0-3]",
    "instance-level": "0",
    "security.owner": str(os.getuid()),
    "version": "0.88.0",
    "test.count": "1",
}
IMMUTABLE = frozenset(("rank", "size", "hostlist", "security.owner", "version"))


class ScriptedBroker:
    """The broker. ``requests`` are the topics that came, in order; ``attributes`` can be changed."""

    def __init__(self, authorize: Callable[[int], int] = owner_only) -> None:
        self.directory = tempfile.mkdtemp(prefix="broker-")
        self.uri = f"local://{self.directory}/local"
        self.attributes = dict(ATTRIBUTES)
        self.requests: list[str] = []
        self.payloads: list[dict[str, Any]] = []
        self.received: list[Message] = []
        self.disconnected = threading.Event()
        self._handlers: dict[str, Handler] = dict(_HANDLERS)
        self._subscriptions: dict[str, list[str]] = {}
        self._services: dict[str, str] = {}
        self._sequence = 0
        self._reactor = Reactor()
        self._wakeup = os.pipe()
        self._reactor.on_readable(self._wakeup[0], self._reactor.stop)
        self._server = UsockServer(
            self._reactor,
            f"{self.directory}/local",
            self._receive,
            lambda _: self.disconnected.set(),
            authorize,
        )
        self._thread = threading.Thread(target=self._reactor.run, name="broker")
        self._thread.start()

    def close(self) -> None:
        """Stop, as a broker that goes away."""
        if self._thread.is_alive():
            os.write(self._wakeup[1], b"x")
            self._thread.join()
            self._server.close()
            self._reactor.close()
            for fd in self._wakeup:
                os.close(fd)
        shutil.rmtree(self.directory, ignore_errors=True)

    def on(self, topic: str, handler: Handler | dict[str, Any] | None = None, errnum: int = 0) -> None:
        """Answer ``topic`` by a function of the test, or always with this object, or error."""
        if callable(handler):
            self._handlers[topic] = handler
        else:
            answer = handler
            self._handlers[topic] = lambda broker, connection, request: broker.answer(
                connection, request, answer, errnum
            )

    def answer(
        self,
        connection: Connection,
        request: Message,
        payload: dict[str, Any] | bytes | None = None,
        errnum: int = 0,
    ) -> None:
        """Send a response; bytes go as they are."""
        data = encode_json(payload) if isinstance(payload, dict) else payload
        response = request.response(data, errnum)
        response.rolemask = ROLE_OWNER
        response.routes = []
        connection.send(response)

    def publish(self, event: Message) -> int:
        """Give an event its number, and deliver it."""
        self._sequence += 1
        event.aux1, event.rolemask = self._sequence, ROLE_OWNER
        for uuid, prefixes in self._subscriptions.items():
            if uuid in self._server.connections and any((event.topic or "").startswith(p) for p in prefixes):
                self._server.connections[uuid].send(event)
        return self._sequence

    def _receive(self, connection: Connection, message: Message) -> None:
        if message.type == EVENT:
            self.publish(message)
        elif message.type == REQUEST:
            self._receive_request(connection, message)
        elif message.type == RESPONSE and message.routes:
            self._server.connections[message.routes.pop()].send(message)

    def _receive_request(self, connection: Connection, request: Message) -> None:
        topic = request.topic or ""
        self.requests.append(topic)
        self.received.append(request)
        owner = self._services.get(topic.partition(".")[0])
        handler = self._handlers.get(topic)
        if owner is not None:
            assert request.routes is not None
            request.routes.append(connection.uuid)
            self._server.connections[owner].send(request)
        elif handler is not None:
            handler(self, connection, request)
        elif request.wants_response:
            text = f"No service matching {topic} is registered"
            self.answer(connection, request, text.encode() + b"\0", errno.ENOSYS)

    def get_attribute(self, connection: Connection, request: Message) -> None:
        name = request.json()["name"]
        if name not in self.attributes:
            self.answer(connection, request, errnum=errno.ENOENT)
            return
        flags = 1 if name in IMMUTABLE else 0
        self.answer(connection, request, {"value": self.attributes[name], "flags": flags})

    def set_attribute(self, connection: Connection, request: Message) -> None:
        name, value = request.json()["name"], request.json()["value"]
        if name not in self.attributes:
            self.answer(connection, request, b"unknown attribute\0", errno.ENOENT)
        elif name in IMMUTABLE:
            self.answer(connection, request, errnum=errno.EPERM)
        else:
            self.attributes[name] = value
            self.answer(connection, request)

    def list_attributes(self, connection: Connection, request: Message) -> None:
        self.answer(connection, request, {"names": [*self.attributes, "parent-uri"]})

    def subscribe(self, connection: Connection, request: Message) -> None:
        self._subscriptions.setdefault(connection.uuid, []).append(request.json()["topic"])
        self.answer(connection, request)

    def unsubscribe(self, connection: Connection, request: Message) -> None:
        topics = self._subscriptions.get(connection.uuid, [])
        if request.json()["topic"] not in topics:
            self.answer(connection, request, errnum=errno.ENOENT)
            return
        topics.remove(request.json()["topic"])
        self.answer(connection, request)

    def publish_request(self, connection: Connection, request: Message) -> None:
        value = request.json()
        payload = b64decode(value["payload"]) if "payload" in value else None
        event = Message(EVENT, value["topic"], payload, flags=value["flags"] & FLAG_PRIVATE, routes=[])
        self.answer(connection, request, {"seq": self.publish(event)})

    def add_service(self, connection: Connection, request: Message) -> None:
        name = request.json()["service"]
        if name in self._services:
            self.answer(connection, request, errnum=errno.EEXIST)
            return
        self._services[name] = connection.uuid
        self.answer(connection, request)

    def remove_service(self, connection: Connection, request: Message) -> None:
        known = self._services.pop(request.json()["service"], None)
        self.answer(connection, request, errnum=0 if known else errno.ENOENT)

    def echo(self, connection: Connection, request: Message) -> None:
        self.answer(connection, request, request.payload)


_HANDLERS: dict[str, Handler] = {
    "attr.get": ScriptedBroker.get_attribute,
    "attr.set": ScriptedBroker.set_attribute,
    "attr.list": ScriptedBroker.list_attributes,
    "event.subscribe": ScriptedBroker.subscribe,
    "event.unsubscribe": ScriptedBroker.unsubscribe,
    "event.publish": ScriptedBroker.publish_request,
    "service.add": ScriptedBroker.add_service,
    "service.remove": ScriptedBroker.remove_service,
    "echo.echo": ScriptedBroker.echo,
}


@contextmanager
def open_broker(authorize: Callable[[int], int] = owner_only) -> Iterator[ScriptedBroker]:
    """A broker for the time of a ``with`` block."""
    broker = ScriptedBroker(authorize)
    try:
        yield broker
    finally:
        broker.close()
