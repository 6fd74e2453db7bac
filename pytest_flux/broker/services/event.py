"""`event`: publish by request (RFC 3). The connector answers subscriptions (see pytest_flux.broker.local)."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import EVENT, FLAG_PRIVATE, Message


class EventService(Service):
    """Publishes on rank 0, which numbers events."""

    name = "event"
    is_module = False

    @method("publish", roles=ALL)
    def publish(self, request: Request) -> Answer:
        """``{topic, flags, payload?: base64}`` → ``{seq}``."""
        topic, flags = request.field("topic", str), request.field("flags", int)
        encoded = request.field("payload", str, None)
        if self.router.rank > 0:
            raise FluxError(errno.EPROTO, "this service is only available on rank 0")
        if flags & ~FLAG_PRIVATE:
            raise FluxError(errno.EPROTO)
        import base64

        try:
            payload = None if encoded is None else base64.b64decode(encoded, validate=True)
        except ValueError:
            raise ProtocolError("'payload' is not base64", request.topic) from None
        event = Message(
            EVENT,
            topic,
            payload,
            flags=flags,
            userid=request.message.userid,
            rolemask=request.message.rolemask,
        )
        return {"seq": self.router.send_event(event)}
