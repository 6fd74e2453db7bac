"""The client for programs that run in a loop of asyncio or trio, or of anyio on top of either.

It shares its protocol, :class:`~pytest_flux.client.core.ClientCore`, with the blocking client, and has no thread.

The problem: who reads? A task in the background is the usual answer, but it must be started in some loop and ended in
the same one, and trio has no tasks without a nursery. So there is none. Whoever waits for an answer, and finds that
nobody reads yet, reads for all until its own answer is there, and wakes the others after each piece. If it is
cancelled, the next one takes over. The same holds for writing. What we need of a loop is then little (`_Loop`): wait
until a socket is readable or writable, wait for an event, and call a function in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from contextlib import aclosing

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
    from collections.abc import AsyncGenerator, Callable
    from typing import Any, Protocol, TypeVar

    from typing_extensions import Self

    from pytest_flux.client.connection import Payload
    from pytest_flux.client.jobs import Jobspec
    from pytest_flux.protocol.eventlog import Event

    _T = TypeVar("_T")

    class _Signal(Protocol):
        """An event of asyncio or trio."""

        def set(self) -> object: ...

        async def wait(self) -> object: ...


_CHUNK = 1 << 16


class AsyncioLoop:
    """What we need of the running loop of asyncio."""

    def make_signal(self) -> _Signal:
        """Make an event that tasks can wait for."""
        return asyncio.Event()

    async def until_readable(self, connection: socket.socket) -> None:
        """Wait for input."""
        loop = asyncio.get_running_loop()
        await self._until(lambda wake: loop.add_reader(connection, wake), lambda: loop.remove_reader(connection))

    async def until_writable(self, connection: socket.socket) -> None:
        """Wait for room for output."""
        loop = asyncio.get_running_loop()
        await self._until(lambda wake: loop.add_writer(connection, wake), lambda: loop.remove_writer(connection))

    async def _until(self, begin: Callable[[Callable[[], None]], object], end: Callable[[], object]) -> None:
        ready = asyncio.Event()
        begin(ready.set)
        try:
            await ready.wait()
        finally:
            end()

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Call a function in a thread."""
        return await asyncio.get_running_loop().run_in_executor(None, function)


class TrioLoop:
    """What we need of trio."""

    def make_signal(self) -> _Signal:
        """Make an event that tasks can wait for."""
        import trio

        signal: _Signal = trio.Event()
        return signal

    async def until_readable(self, connection: socket.socket) -> None:
        """Wait for input."""
        import trio

        await trio.lowlevel.wait_readable(connection)

    async def until_writable(self, connection: socket.socket) -> None:
        """Wait for room for output."""
        import trio

        await trio.lowlevel.wait_writable(connection)

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Call a function in a thread."""
        import trio

        result: _T = await trio.to_thread.run_sync(function, abandon_on_cancel=True)
        return result


def running_loop() -> AsyncioLoop | TrioLoop:
    """The loop that runs now: asyncio's, or trio's."""
    trio: Any = sys.modules.get("trio")
    return TrioLoop() if trio is not None and trio.lowlevel.in_trio_run() else AsyncioLoop()


class AsyncFlux:
    """A connection to one broker: ``async with AsyncFlux(uri) as flux``. Raises as ``Flux`` does."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or default_uri()
        self._core = ClientCore()
        self._error: OSError | None = None
        self._socket: socket.socket | None = None
        self._loop: AsyncioLoop | TrioLoop
        # Whether some task reads or writes, and what wakes the others after each change.
        self._reading = False
        self._writing = False
        self._changed: _Signal | None = None

    def __repr__(self) -> str:
        return f"<AsyncFlux {self.uri}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    async def open(self) -> None:
        """Connect. Raises OSError."""
        self._loop = running_loop()
        # A local socket connects at once, or after some tries if the broker is just starting.
        connected = await self._loop.in_thread(lambda: connect(self.uri))
        self._socket = socket.socket(fileno=connected.detach())
        self._socket.setblocking(False)
        try:
            await self._wait_for(lambda: self._core.ready)
        except BaseException:
            self.abort()
            raise

    async def close(self) -> None:
        """Close the connection. Tasks that wait for something get ConnectionError."""
        self.abort()

    def abort(self) -> None:
        """Close the connection, also where no loop runs any more."""
        self._error = self._error or ConnectionError(errno.ENOTCONN, "the connection is closed", self.uri)
        if self._socket is None:
            return
        if self._reading or self._writing:
            # Wakes the tasks that wait for the socket. The last of them closes it.
            self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._socket.close()
        self._wake()

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
    ) -> AsyncGenerator[dict[str, Any], None]:
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

    async def watch(self, jobid: int, path: str = MAIN, *, wait: bool = False) -> AsyncGenerator[Event, None]:
        """The events of one of a job's logs, until it is complete; with ``wait``, it need not exist yet."""
        request = {"id": jobid, "path": path, "flags": WAIT_FOR_CREATION if wait else 0}
        # trio wants generators to be closed where they are used.
        async with aclosing(self.stream("job-info.eventlog-watch", request, cancel=CANCEL_TOPIC)) as answers:
            async for answer in answers:
                for event in events_of(answer):
                    yield event

    async def result(self, jobid: int) -> JobResult:
        """Wait until the job is inactive. Returns its result."""
        result = JobResult(jobid)
        async with aclosing(self.watch(jobid)) as events:
            async for event in events:
                result.add(event)
        return result

    async def output(self, jobid: int) -> JobOutput:
        """Wait until the job is inactive. Returns its output."""
        await self.result(jobid)
        output = JobOutput()
        try:
            async with aclosing(self.watch(jobid, OUTPUT)) as events:
                async for event in events:
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
        self._check()
        self._core.begin(call, encode_payload(payload))
        await self._flush()
        return call

    async def _next(self, call: Call) -> Message:
        await self._wait_for(lambda: bool(call.responses))
        return call.responses.popleft()

    def _check(self) -> socket.socket:
        if self._error is not None:
            raise self._error
        if self._socket is None:
            raise ConnectionError(errno.ENOTCONN, "there is no connection", self.uri)
        return self._socket

    async def _flush(self) -> None:
        """Send the output. If a task is canceled, the next one sends the rest, so that messages stay whole."""
        while self._core.output:
            connection = self._check()
            if self._writing:
                await self._until_changed()
                continue
            try:
                sent = connection.send(memoryview(self._core.output)[:_CHUNK].tobytes())
            except BlockingIOError:
                self._writing = True
                try:
                    await self._loop.until_writable(connection)
                finally:
                    self._writing = False
                    self._settle()
            except OSError as error:
                raise OSError(error.errno or errno.ECONNRESET, error.strerror, self.uri) from None
            else:
                del self._core.output[:sent]

    async def _wait_for(self, is_there: Callable[[], bool]) -> None:
        """Read until it is there, or let another task read."""
        while not is_there():
            connection = self._check()
            if self._reading:
                await self._until_changed()
                continue
            self._reading = True
            try:
                await self._loop.until_readable(connection)
                self._receive(connection)
            finally:
                self._reading = False
                self._settle()

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_CHUNK)
            if data:
                self._core.feed(data)
            else:
                self._fail(ConnectionResetError(errno.ECONNRESET, "the broker has hung up", self.uri))
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(OSError(error.errno or errno.ECONNRESET, error.strerror, self.uri))
        except ValueError as error:
            # The input is not a message of Flux.
            self._fail(ConnectionError(errno.EPROTO, str(error), self.uri))

    def _fail(self, error: OSError) -> None:
        self._error = self._error or error

    async def _until_changed(self) -> None:
        if self._changed is None:
            self._changed = self._loop.make_signal()
        await self._changed.wait()

    def _settle(self) -> None:
        """Close the socket, if that was put off, and wake the others."""
        if self._error is not None and self._socket is not None and not self._reading and not self._writing:
            self._socket.close()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


def _json(message: Message) -> dict[str, Any]:
    if message.errnum:
        raise FluxError(message.errnum, message.text())
    return message.json() if message.payload else {}
