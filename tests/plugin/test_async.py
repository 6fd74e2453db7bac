"""Tests that are coroutines, run by asyncio, trio, and anyio on top of both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator

import pytest

import pytest_flux
from pytest_flux import AsyncFluxInstance
from pytest_flux.protocol.errors import FluxError
from tests.plugin.conftest import Run

Main = Callable[[], Awaitable[None]]


def run_by_trio(main: Main) -> None:
    pytest.importorskip("trio").run(main)


def run_by_anyio(main: Main) -> None:
    pytest.importorskip("anyio").run(main)


def run_by_asyncio(main: Main) -> None:
    asyncio.run(main())  # type: ignore[arg-type]


RUNNERS: dict[str, Callable[[Main], None]] = {"asyncio": run_by_asyncio, "trio": run_by_trio, "anyio": run_by_anyio}


@pytest.fixture(scope="module")
def instance() -> Iterator[pytest_flux.FluxInstance]:
    with pytest_flux.start(size=2, broker="embedded") as instance:
        yield instance


@pytest.mark.parametrize("runner", RUNNERS)
def test_jobs_and_services(instance: pytest_flux.FluxInstance, runner: str) -> None:
    flux = AsyncFluxInstance(instance)

    async def main() -> None:
        job = await flux.submit("echo $WORD", env={"WORD": "hello"}, num_tasks=2)
        assert (await job.output()).stdout == b"hello\nhello\n"
        assert (await job.result()).succeeded
        assert (await flux.job(job.id).wait_event("clean"))["name"] == "clean"
        with pytest.raises(LookupError, match="no event 'nosuch'"):
            await job.wait_event("nosuch")
        assert await flux.getattr("size") == "2"
        with pytest.raises(FluxError, match="'sise'"):
            await flux.getattr("sise")
        assert (await flux.rpc("attr.get", {"name": "rank"}, rank=1))["value"] == "1"
        await flux.call(lambda flux: flux.kvs.put("a", "1"))
        assert await flux.call(lambda flux: flux.kvs.get("a")) == b"1"

    try:
        RUNNERS[runner](main)
    finally:
        flux.close()


@pytest.mark.parametrize("runner", RUNNERS)
def test_one_task_reads_for_all_until_it_is_cancelled(instance: pytest_flux.FluxInstance, runner: str) -> None:
    anyio = pytest.importorskip("anyio")
    flux = AsyncFluxInstance(instance)
    seen: list[str] = []

    async def wait(job: pytest_flux.AsyncJob, scope: contextlib.AbstractContextManager[object]) -> None:
        with scope:
            seen.append((await job.result()).name)

    async def main() -> None:
        jobs = [await flux.submit(["sleep", "1000"]) for _ in range(3)]
        await jobs[0].wait_event("start")
        scopes = [anyio.CancelScope() for _ in jobs]
        async with anyio.create_task_group() as group:
            for job, scope in zip(jobs, scopes, strict=True):
                group.start_soon(wait, job, scope)
            await anyio.lowlevel.checkpoint()
            # The reader, whichever it is: each of the others must be able to take over.
            scopes[0].cancel()
            await jobs[1].cancel()
            await jobs[2].cancel("enough")
        await jobs[0].cancel()

    try:
        RUNNERS[runner](main)
    finally:
        flux.close()
    assert seen == ["CANCELED", "CANCELED"]


def test_what_waits_for_a_closed_connection_ends(instance: pytest_flux.FluxInstance) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        flux = AsyncFluxInstance(instance)
        job = await flux.submit(["sleep", "1000"])
        client = await flux.client()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(ConnectionError):
                    await job.result()

            group.start_soon(wait)
            group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await client.close()
        flux.close()
        await flux.job(job.id).cancel()
        flux.close()

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)
    gc.collect()


def test_the_fixture(run: Run) -> None:
    pytest.importorskip("pytest_asyncio")
    result = run(
        """
        import pytest

        @pytest.mark.asyncio
        async def test_asyncio(flux_instance_async, flux_instance):
            job = await flux_instance_async.submit("echo hi")
            assert (await job.output()).stdout == b"hi\\n"
            assert flux_instance_async.uri == flux_instance.uri

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
        async def test_anyio(flux_instance_async, anyio_backend):
            assert await flux_instance_async.getattr("size") == "1"
        """,
        "-p",
        "pytest_asyncio.plugin",
        "-p",
        "anyio",
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(passed=3)
