"""The client for programs that run in a loop of asyncio: requests, streams, events, and jobs.

It shares its protocol, :class:`~pytest_flux.client.core.ClientCore`, with the blocking client, and has no thread.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress

from pytest_flux.client.connection import encode_payload
from pytest_flux.client.connector import connect, default_uri
from pytest_flux.client.core import Call, ClientCore
from pytest_flux.client.job_follow import CANCEL_TOPIC, MAIN, OUTPUT, WAIT_FOR_CREATION, events_of
from pytest_flux.client.job_result import JobOutput, JobResult
from pytest_flux.client.jobs import signed_request
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.job_state import URGENCY_DEFAULT
from pytest_flux.protocol.message import NODEID_ANY, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from typing_extensions import Self

    from pytest_flux.client.connection import Payload
    from pytest_flux.client.jobs import Jobspec
    from pytest_flux.protocol.eventlog import Event

_CHUNK = 1 << 16


class AsyncFlux:
    """A connection to one broker: ``async with AsyncFlux(uri) as flux``. Raises as ``Flux`` does."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or default_uri()
        self._core = ClientCore()
        self._arrived = asyncio.Condition()
        self._sending = asyncio.Lock()
        self._error: OSError | None = None
        self._reader: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # A local socket connects at once, or after some tries if the broker is just starting.
        connected = await loop.run_in_executor(None, connect, self.uri)
        self._socket = socket.socket(fileno=connected.detach())
        self._socket.setblocking(False)
        self._reader = asyncio.create_task(self._read())
        try:
            await self._wait_for(lambda: self._core.ready)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Tasks that wait for something get ConnectionError."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        if self._socket is not None:
            # Not while somebody waits for it to become writable.
            async with self._sending:
                self._socket.close()
        self._error = self._error or ConnectionError(errno.ENOTCONN, "the connection is closed", self.uri)
        async with self._arrived:
            self._arrived.notify_all()

    # -- requests

    async def rpc(self, topic: str, payload: Payload = None, *, nodeid: int = NODEID_ANY) -> dict[str, Any]:
        """Send a request, and wait for the answer. Raises FluxError."""
        call = await self._begin(Call(topic, nodeid), payload)
        try:
            return _json(await self._next(call))
        finally:
            self._core.abandon(call)

    async def stream(
        self, topic: str, payload: Payload = None, *, nodeid: int = NODEID_ANY, cancel: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Send a request, and take its answers until the stream ends.

        Leaving the iteration ends the stream, by the topic ``cancel``, or ``<service>.cancel`` (RFC 6,
        "Cancellation").
        """
        call = await self._begin(Call(topic, nodeid, streaming=True), payload)
        try:
            while True:
                message = await self._next(call)
                if message.errnum == errno.ENODATA:
                    return
                yield _json(message)
        finally:
            if not call.finished:
                request = encode_payload({"matchtag": call.matchtag})
                self._core.post(cancel or f"{topic.partition('.')[0]}.cancel", request, nodeid)
                self._core.abandon(call)
                await self._flush()

    async def subscribe(self, topic: str) -> None:
        """Subscribe to the events whose topic begins with ``topic``."""
        await self.rpc("event.subscribe", {"topic": topic})

    async def event(self) -> Message:
        """The next event."""
        await self._wait_for(lambda: bool(self._core.events))
        return self._core.events.popleft()

    # -- jobs

    async def submit(self, jobspec: Jobspec, *, urgency: int = URGENCY_DEFAULT, flags: int = 0) -> int:
        """Submit a job; its id."""
        return int((await self.rpc("job-ingest.submit", signed_request(jobspec, urgency, flags)))["id"])

    async def watch(self, jobid: int, path: str = MAIN, *, wait: bool = False) -> AsyncIterator[Event]:
        """The events of one of a job's logs, until it is complete; with ``wait``, it need not exist yet."""
        request = {"id": jobid, "path": path, "flags": WAIT_FOR_CREATION if wait else 0}
        async for answer in self.stream("job-info.eventlog-watch", request, cancel=CANCEL_TOPIC):
            for event in events_of(answer):
                yield event

    async def result(self, jobid: int) -> JobResult:
        """Wait until the job is inactive. Returns its result."""
        result = JobResult(jobid)
        async for event in self.watch(jobid):
            result.add(event)
        return result

    async def output(self, jobid: int) -> JobOutput:
        """Wait until the job is inactive. Returns its output."""
        await self.result(jobid)
        output = JobOutput()
        try:
            async for event in self.watch(jobid, OUTPUT):
                if event["name"] == "data":
                    io = decode_io(event["context"])
                    setattr(output, io.stream, getattr(output, io.stream) + io.data)
        except FluxError as error:
            # A job that never ran has written nothing.
            if error.errnum != errno.ENOENT:
                raise
        return output

    async def cancel(self, jobid: int, note: str | None = None) -> None:
        """Cancel a job."""
        request: dict[str, Any] = {"id": jobid, "type": "cancel", "severity": 0}
        await self.rpc("job-manager.raise", request if note is None else {**request, "note": note})

    # -- the connection

    async def _begin(self, call: Call, payload: Payload) -> Call:
        self._core.begin(call, encode_payload(payload))
        await self._flush()
        return call

    async def _next(self, call: Call) -> Message:
        await self._wait_for(lambda: bool(call.responses))
        return call.responses.popleft()

    async def _flush(self) -> None:
        """Send the output. If a task is canceled, the next one sends the rest, so that messages stay whole."""
        async with self._sending:
            while self._core.output:
                if self._socket is None or self._socket.fileno() < 0:
                    raise ConnectionError(errno.ENOTCONN, "there is no connection", self.uri)
                try:
                    sent = self._socket.send(bytes(self._core.output[:_CHUNK]))
                except BlockingIOError:
                    await self._until_writable(self._socket)
                except OSError as error:
                    raise OSError(error.errno or errno.ECONNRESET, error.strerror, self.uri) from None
                else:
                    del self._core.output[:sent]

    async def _until_writable(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        writable = loop.create_future()

        def wake() -> None:
            if not writable.done():
                writable.set_result(None)

        loop.add_writer(connection, wake)
        try:
            await writable
        finally:
            loop.remove_writer(connection)

    async def _read(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._socket, _CHUNK):
                self._core.feed(data)
                async with self._arrived:
                    self._arrived.notify_all()
            self._error = ConnectionResetError(errno.ECONNRESET, "the broker has hung up", self.uri)
        except OSError as error:
            self._error = OSError(error.errno or errno.ECONNRESET, error.strerror, self.uri)
        except ValueError as error:
            # The input is not a message of Flux.
            self._error = ConnectionError(errno.EPROTO, str(error), self.uri)
        async with self._arrived:
            self._arrived.notify_all()

    async def _wait_for(self, is_there: Any) -> None:  # noqa: ANN401
        async with self._arrived:
            await self._arrived.wait_for(lambda: is_there() or self._error is not None)
        if not is_there():
            assert self._error is not None
            raise self._error


def _json(message: Message) -> dict[str, Any]:
    if message.errnum:
        raise FluxError(message.errnum, message.text())
    return message.json() if message.payload else {}
