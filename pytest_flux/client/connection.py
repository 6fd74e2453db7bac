"""A blocking connection to one broker, and the calls that are made over it.

Both are in one module because each needs the other: the connection makes the calls, and a call waits by way of it.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections import deque

from pytest_flux.client.connector import connect, default_uri
from pytest_flux.client.core import NODEID_UPSTREAM, Call, ClientCore
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import (
    FLAG_NORESPONSE,
    NODEID_ANY,
    ROLE_NONE,
    USERID_UNKNOWN,
    Message,
    encode_json,
)

# In seconds: poll(2) takes no more than 31 bits of milliseconds.
_LONGEST_POLL = 1e6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from typing_extensions import Self

    Payload = dict[str, Any] | bytes | None

_CHUNK = 1 << 16
_MAX_WRITE = 1 << 20


class Connection:
    """A :class:`~pytest_flux.client.handle.Flux` without the services that every broker has."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or default_uri()
        self._answered: deque[Rpc] = deque()
        self._core = ClientCore(
            userid=int(os.environ.get("FLUX_HANDLE_USERID", USERID_UNKNOWN)),
            rolemask=int(os.environ.get("FLUX_HANDLE_ROLEMASK", str(ROLE_NONE)), 0),
        )
        self._socket = connect(self.uri)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self.wait_for(lambda: self._core.ready, None, "no greeting")
        except BaseException:
            self.close()
            raise
        self._socket.setblocking(False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor for your own event loop: when it is readable, call :meth:`dispatch`."""
        return self._socket.fileno()

    def rpc(
        self,
        topic: str,
        payload: Payload = None,
        *,
        nodeid: int = NODEID_ANY,
        streaming: bool = False,
        timeout: float | None = None,
    ) -> Rpc:
        """Send a request; the result gives access to its responses.

        A ``payload`` that is a dict travels as JSON, bytes as they are. ``nodeid`` is the rank of the broker to ask,
        NODEID_ANY for the first on the way to rank 0 that has the service, NODEID_UPSTREAM for the parent.
        ``timeout`` bounds, in seconds, each wait for a response. Raises FluxError if ``nodeid`` is not a rank.
        """
        rpc = Rpc(self, topic, nodeid, streaming=streaming, timeout=timeout)
        self._core.begin(rpc, encode_payload(payload), self._rank_if_upstream(nodeid))
        self._send()
        return rpc

    def post(
        self, topic: str, payload: Payload = None, nodeid: int = NODEID_ANY, flags: int = FLAG_NORESPONSE
    ) -> None:
        """Send a request that wants no response, and wait until it is sent."""
        self._core.post(topic, encode_payload(payload), nodeid, self._rank_if_upstream(nodeid), flags)
        self.flush()

    def abandon(self, rpc: Rpc) -> None:
        """Drop the responses of ``rpc``, including later ones."""
        self._core.abandon(rpc)

    def dispatch(self, timeout: float | None = 0) -> None:
        """Send and receive without waiting, then call the callbacks that ``Rpc.then`` set.

        If there is nothing to do yet, waits up to ``timeout`` seconds (None: for ever). Raises ConnectionError if the
        broker is gone.
        """
        self._exchange(0 if self._answered else timeout)
        while self._answered:
            rpc = self._answered.popleft()
            if rpc.callback is not None and rpc.is_ready():
                rpc.callback(rpc)

    def announce(self, rpc: Rpc) -> None:
        """Let the next :meth:`dispatch` call back for responses that have already arrived."""
        self._answered.append(rpc)

    def flush(self) -> None:
        """Wait until everything is sent. Input that arrives meanwhile is kept."""
        self._send()
        while self._core.output:
            self._exchange(None)

    def wait_for(self, is_done: Callable[[], bool], timeout: float | None, complaint: str) -> None:
        """Send and receive until ``is_done``. Raises TimeoutError, which begins with ``complaint``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not is_done():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"{complaint} within {timeout:g} s ({self.uri})")
            self._exchange(left)

    def _send(self) -> None:
        """Send without waiting, and receive nothing: a loop that waits on ``fileno`` would not notice the input."""
        if self._core.ready and self._core.output:
            self._write()

    def _exchange(self, timeout: float | None) -> None:
        """Wait up to ``timeout`` seconds until something can be sent or received, and do so."""
        flags = select.POLLIN | (select.POLLOUT if self._core.output and self._core.ready else 0)
        self._poll.modify(self._socket, flags)
        wait = None if timeout is None else min(max(timeout, 0), _LONGEST_POLL) * 1000
        for _, ready in self._poll.poll(wait):
            if ready & select.POLLOUT:
                self._write()
            if ready & ~select.POLLOUT:
                self._read()

    def _write(self) -> None:
        output = self._core.output
        try:
            with memoryview(output) as view:
                sent = self._socket.send(view[:_MAX_WRITE])
        except BlockingIOError:
            return
        except OSError as error:
            raise OSError(error.errno or errno.EPIPE, error.strerror, self.uri) from None
        del output[:sent]

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise OSError(error.errno or errno.ECONNRESET, error.strerror, self.uri) from None
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the broker has hung up", self.uri)
        try:
            calls = self._core.feed(data)
        except OSError as error:
            raise OSError(error.errno or errno.EPERM, error.strerror, self.uri) from None
        # Only calls with a callback: nobody would remove the others from this queue.
        self._answered.extend(call for call in calls if isinstance(call, Rpc) and call.callback is not None)

    def _rank_if_upstream(self, nodeid: int) -> int:
        """Our own rank, which a request to the parent needs."""
        if nodeid != NODEID_UPSTREAM:
            return 0
        return int(self.rpc("attr.get", {"name": "rank"}).get()["value"])


class Rpc(Call):
    """A request, and access to its responses.

    Without ``streaming`` there is one response, which :meth:`get` returns every time. With it, each call takes the
    next one; iterating takes all until the stream ends. An error response raises
    :class:`~pytest_flux.protocol.errors.FluxError`, and so does each further call after it. ``timeout``, in seconds,
    bounds each wait that has no timeout itself; None waits for ever.
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
        """The response's payload as text, without its NUL. Bytes that are not UTF-8 become surrogates."""
        return self.get_bytes(timeout).rstrip(b"\0").decode("utf-8", "surrogateescape")

    def get_message(self, timeout: float | None = None) -> Message:
        """The response itself. Raises as :meth:`get`, but never for its payload."""
        message = self.take(timeout)
        if message.errnum:
            raise FluxError(message.errnum, message.text())
        return message

    def take(self, timeout: float | None = None) -> Message:
        """The response, even if it is an error. Raises TimeoutError and ConnectionError."""
        if self._last is not None and (not self.streaming or self._last.errnum):
            return self._last
        if self.abandoned:
            raise ValueError(f"the request {self.topic} was abandoned")
        self._connection.wait_for(
            self.is_ready,
            self.timeout if timeout is None else timeout,
            f"no response to {self.topic} from {_describe_nodeid(self.nodeid)}",
        )
        self._last = self.responses.popleft()
        return self._last

    def then(self, callback: Callable[[Rpc], None]) -> None:
        """Let ``Flux.dispatch`` call back whenever a response has arrived, with this call as argument.

        The callback may take any number of the responses.
        """
        self.callback = callback
        if self.responses:
            self._connection.announce(self)

    def is_ready(self) -> bool:
        """Whether a response has arrived, so that :meth:`get` will not wait."""
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
        """Ask the service to end the stream, which then ends with ENODATA (RFC 6, "Cancellation").

        ``topic`` is ``<service>.cancel`` unless given (``job-info.eventlog-watch-cancel``, for one, is not).
        """
        if not self.finished:
            service = self.topic.partition(".")[0]
            payload = encode_json({"matchtag": self.matchtag})
            self._connection.post(topic or f"{service}.cancel", payload, self.nodeid)

    def abandon(self) -> None:
        """Drop the responses, including later ones. The service does not notice."""
        self._connection.abandon(self)


def encode_payload(payload: Payload) -> bytes | None:
    """A payload as bytes: a dict becomes JSON."""
    return encode_json(payload) if isinstance(payload, dict) else payload


def _describe_nodeid(nodeid: int) -> str:
    """The receiver of a request, in words."""
    if nodeid == NODEID_ANY:
        return "the nearest broker that has the service"
    return "the parent broker" if nodeid == NODEID_UPSTREAM else f"rank {nodeid}"
