"""Requests about the state of resources that tools and tests of flux-core make besides ``resource.status``."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pytest_flux import flux_instance
from pytest_flux.client.jobspec import from_command
from pytest_flux.instance.flux_instance import FluxInstance, Starter
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.resource_set import ResourceSet

DEADLINE = 60.0

instance = flux_instance(size=2, broker="embedded", scope="module")


def _refusal(instance: FluxInstance, topic: str, payload: dict[str, Any] | None = None) -> tuple[int, str | None]:
    with pytest.raises(FluxError) as caught:
        instance.rpc(topic, payload)
    return caught.value.errnum, caught.value.text


def _mock(**test: Any) -> dict[str, Any]:  # noqa: ANN401
    spec = from_command(["true"])
    spec["attributes"]["system"]["exec"] = {"test": test}
    return spec


def test_allocated_resources(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    job_id = jobs.submit(_mock(override=1))
    jobs.wait_event(job_id, "alloc", timeout=DEADLINE)
    status = {name: ResourceSet.decode(value) for name, value in instance.rpc("sched.resource-status").items()}
    held = ResourceSet.decode(instance.rpc("job-manager.resource-status")["allocated"])
    assert status["all"].ranks == "0-1"
    assert (held.count("core"), len(status["down"])) == (1, 0)
    assert status["allocated"] == held
    instance.rpc("resource.drain", {"targets": "1", "reason": "x"})
    assert ResourceSet.decode(instance.rpc("sched.resource-status")["down"]).ranks == "1"
    instance.rpc("resource.undrain", {"targets": "1"})
    jobs.cancel(job_id)
    jobs.result(job_id, timeout=DEADLINE)
    assert not ResourceSet.decode(instance.rpc("job-manager.resource-status")["allocated"])


def test_a_job_in_override_mode(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    job_id = jobs.submit(_mock(override=1))

    def override(event: str, **more: int) -> None:
        instance.rpc("job-exec.override", {"jobid": job_id, "event": event, **more})

    jobs.wait_event(job_id, "alloc", timeout=DEADLINE)
    instance.rpc("job-info.lookup", {"id": job_id, "keys": ["R"], "flags": 0})
    override("start")
    jobs.wait_event(job_id, "start", timeout=DEADLINE)
    for event, text in (("start", "Job already running"), ("x", "Invalid event")):
        assert _refusal(instance, "job-exec.override", {"jobid": job_id, "event": event}) == (errno.EINVAL, text)
    override("finish", status=3 << 8)
    assert jobs.result(job_id, timeout=DEADLINE).exit_code == 3
    assert _refusal(instance, "job-exec.override", {"jobid": job_id, "event": "start"})[1] == "Job not found"


def test_override_is_for_jobs_that_ask_for_it(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    job_id = jobs.submit(_mock(run_duration="100s"))
    jobs.wait_event(job_id, "start", timeout=DEADLINE)
    refused = _refusal(instance, "job-exec.override", {"jobid": job_id, "event": "finish"})
    assert refused == (errno.EINVAL, "Job not in exec override mode")
    jobs.cancel(job_id)
    jobs.result(job_id, timeout=DEADLINE)


def test_waiting_for_ranks(flux_instance_factory: Starter) -> None:
    instance = flux_instance_factory(size=2, broker="embedded")
    instance.rpc("resource.monitor-waitup", {"up": 2})
    text = "up value is out of range"
    for up in (-1, 3):
        assert _refusal(instance, "resource.monitor-waitup", {"up": up}) == (errno.EPROTO, text)
    waiting = instance.client.rpc("resource.monitor-waitup", {"up": 1})
    instance.brokers[1].kill()
    assert waiting.get(DEADLINE) == {}


def test_there_is_no_hwloc(instance: FluxInstance) -> None:
    refused = (errno.ENOSYS, "embedded brokers have no hwloc topology: install flux-core")
    assert _refusal(instance, "resource.topo-get") == refused


def test_a_muted_scheduler_ignores_changes(flux_instance_factory: Starter) -> None:
    running = flux_instance_factory(size=1, broker="embedded")
    running.client.jobs.run(["true"], timeout=DEADLINE)
    running.rpc("resource.acquire-mute")
    running.rpc("resource.drain", {"targets": "0", "reason": "x"})
    jobs = running.client.jobs
    assert jobs.result(jobs.submit(from_command(["true"])), timeout=DEADLINE).exit_code == 0
