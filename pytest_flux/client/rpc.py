"""One remote procedure call of a :class:`~pytest_flux.client.handle.Flux` handle."""

from __future__ import annotations

import errno

from pytest_flux.client.core import NODEID_UPSTREAM, Call
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import NODEID_ANY, Message, encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pytest_flux.client.connection import Connection


class Rpc(Call):
    """A request on its way, and the way to its responses.

    Without ``streaming`` there is one response, and asking again gives it again. With it every call takes the next
    one; iterating takes all until the stream ends. An answer that is an error raises
    :class:`~pytest_flux.protocol.errors.FluxError`, and so does asking on after it. ``timeout``, in seconds, bounds
    each wait that is not given one of its own; None waits for ever.
    """

    __slots__ = ("_connection", "_last", "callback", "timeout")

    def __init__(
        self,
        connection: Connection,
        topic: str,
        nodeid: int,
        *,
        streaming: bool = False,
        timeout: float | None = None,
    ) -> None:
        super().__init__(topic, nodeid, streaming=streaming)
        self.timeout = timeout
        self.callback: Callable[[Rpc], None] | None = None
        self._connection = connection
        self._last: Message | None = None

    def get(self, timeout: float | None = None) -> dict[str, Any]:
        """The response's JSON object; empty if it has no payload.

        Raises FluxError if the answer is an error, TimeoutError if none came, ConnectionError if the broker is gone,
        ProtocolError if the payload is something else.
        """
        message = self.get_message(timeout)
        return message.json() if message.payload else {}

    def get_bytes(self, timeout: float | None = None) -> bytes:
        """The response's payload as it came, empty if it has none. Raises as :meth:`get`."""
        return self.get_message(timeout).payload or b""

    def get_text(self, timeout: float | None = None) -> str:
        """The response's payload as text, without its NUL; what is not UTF-8 becomes surrogates."""
        return self.get_bytes(timeout).rstrip(b"\0").decode("utf-8", "surrogateescape")

    def get_message(self, timeout: float | None = None) -> Message:
        """The response itself. Raises as :meth:`get`, but never for its payload."""
        message = self.take(timeout)
        if message.errnum:
            raise FluxError(message.errnum, message.text())
        return message

    def take(self, timeout: float | None = None) -> Message:
        """The response, be it an error. Raises TimeoutError and ConnectionError."""
        if self._last is not None and (not self.streaming or self._last.errnum):
            return self._last
        if self.abandoned:
            raise ValueError(f"the request {self.topic} was abandoned")
        self._connection.wait_for(
            self.is_ready,
            self.timeout if timeout is None else timeout,
            f"no response to {self.topic} from {describe_nodeid(self.nodeid)}",
        )
        self._last = self.responses.popleft()
        return self._last

    def then(self, callback: Callable[[Rpc], None]) -> None:
        """Have ``Flux.dispatch`` call back whenever a response has come, with this call as argument.

        The callback takes as many of the responses as it likes.
        """
        self.callback = callback
        if self.responses:
            self._connection.announce(self)

    def is_ready(self) -> bool:
        """Whether a response is here, so that :meth:`get` will not wait."""
        return bool(self.responses)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every response of the stream, until it ends with ENODATA; other errors are raised."""
        while True:
            try:
                yield self.get()
            except FluxError as error:
                if error.errnum != errno.ENODATA:
                    raise
                return

    def cancel(self, topic: str | None = None) -> None:
        """Ask the service to end the stream, which then ends with ENODATA (RFC 6).

        ``topic`` is ``<service>.cancel`` unless given (``job-info.eventlog-watch-cancel``, for one, is not).
        """
        if not self.finished:
            service = self.topic.partition(".")[0]
            payload = encode_json({"matchtag": self.matchtag})
            self._connection.post(topic or f"{service}.cancel", payload, self.nodeid)

    def abandon(self) -> None:
        """Forget the call: responses that still come are dropped. The service is not told."""
        self._connection.abandon(self)


def describe_nodeid(nodeid: int) -> str:
    """Whom a request went to, in words."""
    if nodeid == NODEID_ANY:
        return "the nearest broker that has the service"
    return "the parent broker" if nodeid == NODEID_UPSTREAM else f"rank {nodeid}"
