"""An instance for tests that are coroutines, in a loop of asyncio or trio, or of anyio on top of either.

What waits for a job or a service is awaited on a connection of the test's own loop, so it can be cancelled and does
not block other tasks. The rest of an instance is for :meth:`AsyncFluxInstance.call`, which runs it in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_flux.client.aio import AsyncFlux, running_loop
from pytest_flux.instance.submission import Submission
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58, parse_fluid
from pytest_flux.protocol.message import NODEID_ANY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from pytest_flux.client.job_result import JobOutput, JobResult
    from pytest_flux.instance.flux_instance import FluxInstance
    from pytest_flux.instance.submission import Command, SubmitKeywords

_T = TypeVar("_T")


class AsyncJob:
    """A job of the instance, to await. Time limits are those of the loop: ``asyncio.timeout``, ``move_on_after``."""

    def __init__(self, jobid: int, instance: AsyncFluxInstance) -> None:
        self.id = jobid
        self._instance = instance

    def __repr__(self) -> str:
        return f"<AsyncJob {f58(self.id)}>"

    async def result(self) -> JobResult:
        """Wait until the job is inactive. Returns its result."""
        return await (await self._instance.client()).result(self.id)

    async def output(self) -> JobOutput:
        """Wait until the job is inactive. Returns its output."""
        return await (await self._instance.client()).output(self.id)

    async def wait_event(self, name: str) -> Any:  # noqa: ANN401 - an RFC 18 event
        """Wait for an event in the job's main log. Raises LookupError if the job ends without it."""
        client = await self._instance.client()
        async with aclosing(client.watch(self.id)) as events:
            async for event in events:
                if event["name"] == name:
                    return event
        raise LookupError(f"job {f58(self.id)}: no event {name!r}\n{await self.story()}")

    async def cancel(self, note: str | None = None) -> None:
        """Cancel the job."""
        await (await self._instance.client()).cancel(self.id, note)

    async def story(self) -> str:
        """What is known of the job, for people."""
        return await self._instance.call(lambda flux: flux.job(self.id).story())


class AsyncFluxInstance:
    """``instance`` for coroutines. The connection is made on first use, and closed by :meth:`close`."""

    def __init__(self, instance: FluxInstance) -> None:
        self.instance = instance
        self._client: AsyncFlux | None = None

    def __repr__(self) -> str:
        return f"<AsyncFluxInstance of {self.instance!r}>"

    @property
    def size(self) -> int:
        """The number of brokers."""
        return self.instance.size

    @property
    def uri(self) -> str:
        """The FLUX_URI of the instance."""
        return self.instance.uri

    async def client(self) -> AsyncFlux:
        """The connection to rank 0: requests, streams, events and jobs."""
        if self._client is None:
            client = AsyncFlux(self.uri)
            await client.open()
            if self._client is not None:
                # Another task was faster.
                client.abort()
            else:
                self._client = client
        return self._client

    async def call(self, function: Callable[[FluxInstance], _T]) -> _T:
        """Call a function with the instance, in a thread: ``await flux.call(lambda flux: flux.kvs.get("a"))``."""

        def call() -> _T:
            try:
                return function(self.instance)
            finally:
                # The thread may be used again, or never.
                self.instance.close_connection()

        return await running_loop().in_thread(call)

    async def rpc(
        self, topic: str, payload: dict[str, Any] | None = None, *, rank: int = NODEID_ANY
    ) -> dict[str, Any]:
        """Send a request to a service, at ``rank`` or the nearest. Returns its response. Raises FluxError."""
        return await (await self.client()).rpc(topic, payload, nodeid=rank)

    async def getattr(self, name: str) -> str:
        """A broker attribute of rank 0. Raises FluxError."""
        try:
            return str((await self.rpc("attr.get", {"name": name}))["value"])
        except FluxError as error:
            raise FluxError(error.errnum, f"attribute {name!r}: {error.text or os.strerror(error.errnum)}") from None

    async def submit(self, command: Command | Mapping[str, Any], **how: Unpack[SubmitKeywords]) -> AsyncJob:
        """Submit a command or a jobspec. Keywords are those of :meth:`FluxInstance.submit`."""
        submission = Submission(command, how)
        client = await self.client()
        jobid = await client.submit(submission.jobspec, urgency=submission.urgency, flags=submission.flags)
        return AsyncJob(jobid, self)

    def job(self, jobid: int | str) -> AsyncJob:
        """A job by its id, in any of its forms (RFC 19)."""
        return AsyncJob(parse_fluid(jobid) if isinstance(jobid, str) else jobid, self)

    def close(self) -> None:
        """Close the connection, also where no loop runs any more."""
        if self._client is not None:
            self._client.abort()
            self._client = None
