"""Jobs through the client: the same of embedded and of real instances, in all three faces."""

from __future__ import annotations

import asyncio
import errno
import threading
import time

import pytest

from pytest_flux import start
from pytest_flux.client import Flux
from pytest_flux.client.aio import AsyncFlux
from pytest_flux.client.executor import JobError, JobExecutor, JobFuture
from pytest_flux.client.job_result import JobFailed
from pytest_flux.client.jobspec import from_command, nested, per_resource
from pytest_flux.client.resources import Resources
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import FLAG_WAITABLE

# Fixtures of the commands' tests: an instance of four brokers of either engine.
from tests.cli.jobs.conftest import instance, uri

__all__ = ["instance", "uri"]

WAIT = 60.0


def test_run(uri: str) -> None:
    with Flux(uri) as flux:
        output = flux.jobs.run(["printf", r"\377\000x"], timeout=WAIT)
        assert (output.stdout, output.stderr) == (b"\xff\0x", b"")
        assert flux.jobs.run(["sh", "-c", "echo err >&2"], nodes=2, tasks=2, timeout=WAIT).stderr == b"err\n" * 2
        with pytest.raises(JobFailed, match=r"failed \(task\(s\) exited with exit code 3\)") as failure:
            flux.jobs.run(["sh", "-c", "exit 3"], timeout=WAIT)
        assert failure.value.result.exit_code == 3


def test_control(uri: str) -> None:
    with Flux(uri) as flux:
        jobs = flux.jobs
        job = jobs.submit(from_command(["sleep", "60"]), urgency=0)
        assert jobs.urgency(job, 16) == 0
        assert jobs.wait_event(job, "start", timeout=WAIT)["name"] == "start"
        jobs.memo(job, {"a": 1})
        assert jobs.get(job, ["annotations"])["annotations"]["user"] == {"a": 1}
        with pytest.raises(TimeoutError):
            jobs.output(job, timeout=0.01)
        jobs.kill(job, 9)
        result = jobs.result(job, timeout=WAIT)
        assert (result.name, result.exit_code, result.return_code) == ("FAILED", 137, 137)
        assert jobs.last()[0] == job
        other = jobs.submit(from_command(["sleep", "60"]))
        jobs.cancel(other, "note")
        assert jobs.result(other, timeout=WAIT).values["exception_note"] == "note"
        for call in (jobs.cancel, jobs.kill, jobs.lookup):
            with pytest.raises(FluxError) as error:
                call(12345)
            assert error.value.errnum in (errno.ENOENT, errno.EINVAL)
        with pytest.raises(LookupError):
            jobs.wait_event(other, "nosuch", timeout=WAIT)


def test_waiting(uri: str) -> None:
    with Flux(uri) as flux:
        job = flux.jobs.submit(from_command(["false"]), flags=FLAG_WAITABLE)
        answer = flux.jobs.wait(job, timeout=WAIT)
        assert (answer["id"], answer["success"]) == (job, False)
        with pytest.raises(FluxError) as error:
            flux.jobs.wait()
        assert error.value.errnum == errno.ECHILD


def test_lists(uri: str) -> None:
    with Flux(uri) as flux:
        name = f"listed-{time.monotonic_ns()}"
        ids = [flux.jobs.submit(from_command(["true"], name=name)) for _ in range(3)]
        for job in ids:
            flux.jobs.result(job, timeout=WAIT)
        found = flux.jobs.list(["name"], constraint={"name": [name]})
        assert {job["id"] for job in found} == set(ids)
        assert len(flux.jobs.list(["name"], constraint={"name": [name]}, max_entries=2)) == 2
        assert flux.jobs.stats()["successful"] >= 3


def test_resources(uri: str) -> None:
    with Flux(uri) as flux:
        resources = Resources(flux)
        assert len(resources.list().all) == 4
        resources.drain("2", "why")
        try:
            status = resources.status()
            assert (sorted(status.avail), status.drains[2].reason) == ([0, 1, 3], "why")
            assert resources.is_drained(2)
            with pytest.raises(FluxError):
                resources.drain("2", "again")
            assert len(resources.list().up) == 3
        finally:
            resources.undrain("2")
        assert not resources.is_drained(2)


def test_executor(uri: str) -> None:
    with JobExecutor(uri) as executor:
        futures = [executor.submit(from_command(["sh", "-c", f"exit {code}"])) for code in range(3)]
        names: list[str] = []
        futures[0].add_event_callback("finish", lambda _, event: names.append(event["name"]))
        assert [future.result(WAIT) for future in futures] == [0, 1, 2]
        assert names == ["finish"]
        assert [event["name"] for event in futures[1].events()][-1] == "clean"
        futures[1].add_event_callback(None, lambda _, event: names.append(event["name"]))
        assert names[-1] == "clean"
        assert len({future.jobid() for future in futures}) == 3
        too_large = executor.submit(from_command(["true"], nodes=99, tasks=99))
        assert isinstance(too_large.exception(WAIT), JobError)
        sleeper = executor.submit(from_command(["sleep", "60"]))
        sleeper.jobid(WAIT)
        assert not sleeper.cancel()
        assert sleeper.exception(WAIT) is not None or sleeper.result() != 0
        refused = executor.submit(from_command(["true"], queue="nosuch"))
        assert isinstance(refused.exception(WAIT), FluxError)
        with pytest.raises(FluxError):
            refused.jobid()
        left = executor.submit(from_command(["sleep", "60"]))
        left.jobid(WAIT)
        executor.shutdown(cancel_futures=True)
        assert left.done()
    with pytest.raises(RuntimeError):
        executor.submit(from_command(["true"]))


def test_executor_outlives_mistakes(uri: str) -> None:
    """What is no jobspec, and callbacks that fail, do no harm to other jobs; whole crowds may submit."""
    with JobExecutor(uri) as executor:
        for junk in (None, "junk", {}, {"a": {1}}, {"version": 1}):
            mistake = executor.submit(junk)  # type: ignore[arg-type]
            assert isinstance(mistake.exception(WAIT), Exception)
            assert isinstance(mistake._jobid.exception(WAIT), Exception)
        good = executor.submit(from_command(["true"]))
        good.add_event_callback("submit", lambda *_: 1 / 0)
        good.add_done_callback(lambda _: 1 / 0)
        assert good.result(WAIT) == 0
        good.add_event_callback("submit", lambda *_: 1 / 0)
        futures: list[JobFuture] = []

        def submit() -> None:
            futures.extend(executor.submit(from_command(["true"])) for _ in range(25))

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(future.result(WAIT) == 0 for future in futures) == 100
        assert executor.attach(good.jobid()).result(WAIT) == 0
        assert isinstance(executor.attach(12345).exception(WAIT), FluxError)


def test_executor_without_broker() -> None:
    """Nobody waits for ever for what cannot come any more."""
    with start(broker="embedded") as own:
        executor = JobExecutor(own.uri)
        futures = [executor.submit(from_command(["sleep", "60"])) for _ in range(3)]
        futures[0].jobid(WAIT)
    for future in futures:
        assert future.exception(WAIT) is not None or future.result() != 0
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(from_command(["true"]))


def test_asyncio_under_pressure(uri: str) -> None:
    """Large requests from many tasks, some of which are canceled half way: every message stays whole."""

    async def main() -> None:
        async with AsyncFlux(uri) as flux:
            value = "x" * 3_000_000

            async def put(number: int) -> None:
                val = {"ver": 1, "type": "val", "data": value}
                operation = {"key": f"aio.k{number}", "flags": 0, "dirent": val}
                await flux.rpc("kvs.commit", {"namespace": "primary", "ops": [operation], "flags": 0})

            tasks = [asyncio.create_task(put(number)) for number in range(8)]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results[1::3]] == [type(None)] * 3, results
            assert (await flux.rpc("attr.get", {"name": "size"}))["value"] == "4"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(
                    flux.rpc("kvs.wait-version", {"namespace": "primary", "rootseq": 1 << 30}), 0.05
                )
            with pytest.raises(FluxError, match="not the rank"):
                await flux.rpc("broker.ping", {}, nodeid=-1)
            waiting = asyncio.create_task(flux.event())
            await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await waiting
        with pytest.raises(ConnectionError):
            await flux.rpc("attr.get", {"name": "size"})

    asyncio.run(main())


def test_asyncio(uri: str) -> None:
    async def main() -> None:
        async with AsyncFlux(uri) as flux:
            jobs = await asyncio.gather(*(flux.submit(from_command(["echo", str(n)])) for n in range(3)))
            outputs = await asyncio.gather(*(flux.output(job) for job in jobs))
            assert [output.stdout for output in outputs] == [b"0\n", b"1\n", b"2\n"]
            async for event in flux.watch(jobs[0]):
                assert event["name"] == "submit"
                break
            sleeper = await flux.submit(from_command(["sleep", "60"]))
            await flux.cancel(sleeper)
            assert (await flux.result(sleeper)).name == "CANCELED"
            with pytest.raises(FluxError):
                await flux.rpc("nosuch.topic")
            await flux.subscribe("aio.test")
            await flux.rpc("event.publish", {"topic": "aio.test", "flags": 0}, nodeid=0)
            assert (await asyncio.wait_for(flux.event(), WAIT)).topic == "aio.test"

    asyncio.run(main())


def test_jobspecs() -> None:
    uneven = from_command(["x"], tasks=3, nodes=2)
    assert uneven["tasks"][0]["count"] == {"total": 3}
    assert uneven["resources"][0]["with"][0]["count"] == 2
    spread = per_resource(["x"], nodes=2, cores=4, tasks_per="core", tasks=2)
    assert spread["resources"][0]["with"][0]["with"] == [{"type": "core", "count": 2}]
    assert spread["attributes"]["system"]["shell"]["options"]["per-resource"] == {"type": "core", "count": 2}
    inner = nested(["x"], slots=2, config={"a": 1})
    assert inner["tasks"][0]["command"] == ["flux", "broker", "-c{{tmpdir}}/conf.json", "x"]
    assert inner["attributes"]["system"]["files"]["conf.json"]["data"] == {"a": 1}
    for mistake in ({"tasks": 0}, {"nodes": 2}, {"exclusive": True}, {"duration": -1.0}, {"gpus_per_task": -1}):
        with pytest.raises(ValueError):  # noqa: PT011
            from_command(["x"], **mistake)


def test_cancel_at_any_moment(uri: str) -> None:
    with Flux(uri) as flux:
        for number in range(20):
            job = flux.jobs.submit(from_command(["sleep", "60"]))
            time.sleep(0.0005 * number)
            flux.jobs.cancel(job)
            # Long before the job would end by itself.
            result = flux.jobs.result(job, timeout=WAIT / 2)
            assert result.name == "CANCELED"
