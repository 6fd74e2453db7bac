"""A handle on a Flux instance, real or embedded."""

from __future__ import annotations

from pytest_flux.client.connection import Connection, encode_payload
from pytest_flux.protocol.message import FLAG_PRIVATE, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Any

    from pytest_flux.client.connection import Payload
    from pytest_flux.client.jobs import Jobs

_ATTRIBUTE_IMMUTABLE = 1


class Flux(Connection):
    """A connection to one broker. Not for use by several threads at once.

    ``uri`` is ``local://PATH`` or ``ssh://HOST/PATH``; the default is ``FLUX_URI``. Any number of requests may be
    outstanding, and answers come in any order. Raises OSError, which carries the URI, if the broker cannot be reached
    or refuses us (PermissionError), ValueError for a malformed URI.

    As in flux-core, ``FLUX_HANDLE_USERID`` and ``FLUX_HANDLE_ROLEMASK`` give messages other credentials than ours.
    Brokers accept them from the instance's owner, so that tests can act as guests.
    """

    def __init__(self, uri: str | None = None) -> None:
        super().__init__(uri)
        self._attributes: dict[str, str] = {}

    def getattr(self, name: str) -> str:
        """The value of a broker attribute. Immutable ones are requested only once.

        Raises FluxError, ENOENT for an attribute that does not exist or has no value.
        """
        value = self._attributes.get(name)
        if value is None:
            answer = self.rpc("attr.get", {"name": name}).get()
            value = str(answer["value"])
            if answer["flags"] & _ATTRIBUTE_IMMUTABLE:
                self._attributes[name] = value
        return value

    def setattr(self, name: str, value: str, *, force: bool = False) -> None:
        """Set a broker attribute. Raises FluxError for one that cannot be set at run time."""
        payload: dict[str, Any] = {"name": name, "value": value}
        if force:
            payload["force"] = True
        self.rpc("attr.set", payload).get()

    def lsattr(self) -> list[str]:
        """The names of all attributes, sorted."""
        return sorted(self.rpc("attr.list").get()["names"])

    @property
    def jobs(self) -> Jobs:
        """The jobs of the instance."""
        from pytest_flux.client.jobs import Jobs

        return Jobs(self)

    @property
    def rank(self) -> int:
        """The rank of the broker that we are connected to."""
        return int(self.getattr("rank"))

    @property
    def size(self) -> int:
        """The number of brokers in the instance."""
        return int(self.getattr("size"))

    def subscribe(self, topic: str) -> None:
        """Have events delivered whose topic begins with ``topic``; the empty string means all."""
        self.rpc("event.subscribe", {"topic": topic}).get()

    def unsubscribe(self, topic: str) -> None:
        """Undo one ``subscribe``. Raises FluxError ENOENT if there was none."""
        self.rpc("event.unsubscribe", {"topic": topic}).get()

    def publish(self, topic: str, payload: Payload = None, *, private: bool = False) -> int:
        """Publish an event, wait until it is under way and return its sequence number.

        A ``private`` event reaches the instance's owner only.
        """
        from binascii import b2a_base64

        request: dict[str, Any] = {"topic": topic, "flags": FLAG_PRIVATE if private else 0}
        data = encode_payload(payload)
        if data is not None:
            request["payload"] = b2a_base64(data, newline=False).decode()
        return int(self.rpc("event.publish", request, nodeid=0).get()["seq"])

    def send_event(self, topic: str, payload: Payload = None, *, private: bool = False) -> None:
        """Publish an event without waiting for anything but its departure from here."""
        self._core.publish(topic, encode_payload(payload), private=private)
        self.flush()

    def event_recv(self, timeout: float | None = None) -> Message:
        """The next event that we are subscribed to. Raises TimeoutError."""
        self.wait_for(lambda: bool(self._core.events), timeout, "no event")
        return self._core.events.popleft()

    def service_add(self, name: str) -> None:
        """Become the service ``name``: requests for ``name.*`` at this broker come to us.

        Raises FluxError EEXIST if there is one of that name.
        """
        self.rpc("service.add", {"service": name}).get()

    def service_remove(self, name: str) -> None:
        """Be the service no longer."""
        self.rpc("service.remove", {"service": name}).get()

    def request_recv(self, timeout: float | None = None) -> Message:
        """The next request to one of our services. Raises TimeoutError."""
        self.wait_for(lambda: bool(self._core.requests), timeout, "no request")
        return self._core.requests.popleft()

    def respond(self, request: Message, payload: Payload = None) -> None:
        """Answer a request to one of our services."""
        self._core.respond(request, encode_payload(payload))
        self.flush()

    def respond_error(self, request: Message, errnum: int, text: str | None = None) -> None:
        """Answer with an error; ENODATA ends a stream (RFC 6)."""
        self._core.respond(request, text.encode() + b"\0" if text else None, errnum)
        self.flush()

    @property
    def events(self) -> deque[Message]:
        """Events that have come and nobody has taken."""
        return self._core.events
