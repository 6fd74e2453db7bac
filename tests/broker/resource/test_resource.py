"""`resource`: what an instance has, from where; draining."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_flux import flux_instance
from pytest_flux.broker.resource.config import decode_config
from pytest_flux.broker.resource.discovery import core_count, gpu_count
from pytest_flux.broker.resource.drain import Drains
from pytest_flux.broker.resource.inventory import verify
from pytest_flux.client.jobspec import from_command
from pytest_flux.instance.flux_instance import FluxInstance, Starter
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import encode_event, make_event
from pytest_flux.protocol.resource_set import Node, ResourceSet

DEADLINE = 60.0


shared = flux_instance(size=3, broker="embedded", scope="module", name="shared")


@pytest.fixture
def start(flux_instance_factory: Starter) -> Starter:
    """Starts instances of a test's own."""
    return flux_instance_factory


@pytest.fixture
def instance(shared: FluxInstance) -> Iterator[FluxInstance]:
    """Three brokers, none drained."""
    yield shared
    drained = ",".join(shared.rpc("resource.status")["drain"])
    if drained:
        shared.rpc("resource.undrain", {"targets": drained, "mode": "update"})


def _sets(instance: FluxInstance) -> dict[str, ResourceSet]:
    answer = instance.rpc("resource.sched-status")
    return {name: ResourceSet.decode(answer[name]) for name in ("all", "down", "allocated")}


def test_every_broker_offers_what_the_host_has(instance: FluxInstance) -> None:
    status = instance.rpc("resource.status")
    resources = ResourceSet.decode(status["R"])
    assert resources.ranks == "0-2"
    assert resources.count("core") == 3 * core_count()
    assert resources.count("gpu") == 3 * gpu_count()
    assert resources.hosts == [instance.getattr("hostname")] * 3
    assert {name: status[name] for name in ("online", "offline", "exclude", "torpid", "drain")} == {
        "online": "0-2",
        "offline": "",
        "exclude": "",
        "torpid": "",
        "drain": {},
    }
    assert instance.rpc("resource.get") == {"R": status["R"], "method": "dynamic-discovery"}


def test_what_jobs_have_shows(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    jobid = jobs.submit(from_command(["sleep", "1000"], tasks=2, nodes=2, environment={}))
    jobs.wait_event(jobid, "start", timeout=DEADLINE)
    assert _sets(instance)["allocated"].summary() == "rank[0-1]/core0"
    jobs.cancel(jobid)
    jobs.wait_event(jobid, "clean", timeout=DEADLINE)
    assert not len(_sets(instance)["allocated"])


def test_a_drained_rank_gets_no_jobs(instance: FluxInstance) -> None:
    instance.rpc("resource.drain", {"targets": "1", "reason": "broken"})
    entry = instance.rpc("resource.status")["drain"]["1"]
    assert entry["reason"] == "broken"
    assert entry["timestamp"] == int(entry["timestamp"])
    assert _sets(instance)["down"].ranks == "1"
    jobs = instance.client.jobs
    here = jobs.submit(from_command(["true"], tasks=2, nodes=2, environment={}))
    jobs.wait_event(here, "clean", timeout=DEADLINE)
    assert jobs.get(here, ["ranks"])["ranks"] == "[0,2]"
    waiting = jobs.submit(from_command(["true"], tasks=3, nodes=3, environment={}))
    jobs.wait_event(waiting, "priority", timeout=DEADLINE)
    instance.rpc("resource.undrain", {"targets": "1"})
    jobs.wait_event(waiting, "clean", timeout=DEADLINE)
    log = jobs.lookup(waiting, "eventlog")["eventlog"]
    assert "exception" not in log


def _journal(instance: FluxInstance) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for answer in instance.client.rpc("resource.journal", {}, nodeid=0, streaming=True):
        if not answer["events"]:
            break
        events += answer["events"]
    return events


def test_the_log_of_draining(instance: FluxInstance) -> None:
    host = instance.getattr("hostname")
    instance.rpc("resource.drain", {"targets": "0-1", "reason": "one"})
    instance.rpc("resource.drain", {"targets": "1", "reason": "two", "mode": "overwrite"})
    instance.rpc("resource.undrain", {"targets": "0"})
    events = _journal(instance)
    last = [(event["name"], event["context"]) for event in events[-3:]]
    both = f"{host},{host}"
    assert last == [
        ("drain", {"idset": "0-1", "nodelist": both, "reason": "one", "overwrite": 0}),
        ("drain", {"idset": "1", "nodelist": host, "reason": "two", "overwrite": 1}),
        ("undrain", {"idset": "0", "nodelist": host, "overwrite": 0}),
    ]
    names = [event["name"] for event in events]
    assert names[0] == "restart"
    assert "resource-define" in names
    before = instance.rpc("config.get")
    instance.rpc("config.load", {**before, "resource": {"journal-max": 3}})
    assert [event["name"] for event in _journal(instance)] == ["truncate", "drain", "undrain"]
    instance.rpc("config.load", before)


@pytest.mark.parametrize(
    ("method", "request_", "number", "text"),
    [
        ("drain", {"targets": "7"}, errno.EINVAL, "idset is out of range"),
        ("drain", {"targets": ""}, errno.EINVAL, "idset is empty"),
        ("drain", {"targets": "nosuch"}, errno.EINVAL, "invalid targets: invalid hosts: nosuch"),
        ("drain", {"targets": "a[["}, errno.EINVAL, "invalid targets: Hostlist cannot be decoded"),
        ("drain", {"targets": "0", "mode": "odd"}, errno.EINVAL, "Invalid mode specified"),
        ("drain", {"targets": "0-2"}, errno.EEXIST, "rank 2 already drained"),
        ("undrain", {"targets": "0-2"}, errno.EEXIST, "ranks 0-1 not drained"),
        ("undrain", {"targets": "0", "mode": "odd"}, errno.EINVAL, "invalid undrain mode 'odd' specified"),
        ("drain", {}, errno.EPROTO, "targets"),
    ],
)
def test_refusals(instance: FluxInstance, method: str, request_: dict[str, Any], number: int, text: str) -> None:
    instance.rpc("resource.drain", {"targets": "2", "reason": "out"})
    with pytest.raises(FluxError) as caught:
        instance.rpc(f"resource.{method}", request_)
    assert caught.value.errno == number
    assert text in str(caught.value)


def test_a_rank_drained_without_reason_can_get_one(instance: FluxInstance) -> None:
    instance.rpc("resource.drain", {"targets": "0"})
    instance.rpc("resource.drain", {"targets": "0", "reason": "now"})
    assert instance.rpc("resource.status")["drain"]["0"]["reason"] == "now"
    instance.rpc("resource.drain", {"targets": "0", "reason": "not this", "mode": "update"})
    assert instance.rpc("resource.status")["drain"]["0"]["reason"] == "now"


# -- other resources than those of the host


def _write(path: Path, resources: ResourceSet) -> str:
    path.write_text(json.dumps(resources.encode()))
    return str(path)


def test_resources_from_a_file(start: Starter, tmp_path: Path) -> None:
    fake = ResourceSet({0: Node("a", 0xFF, 3), 1: Node("b", 0xF, 0)}, {"fast": frozenset((1,))})
    conf = {"resource": {"path": _write(tmp_path / "R", fake), "noverify": True, "exclude": "b"}}
    instance = start(size=2, broker="embedded", conf=conf)
    assert instance.rpc("resource.get") == {"R": fake.encode(), "method": "configuration"}
    assert instance.rpc("resource.status")["exclude"] == "1"
    assert _sets(instance)["all"].ranks == "0"
    with pytest.raises(FluxError, match="rank 1 excluded"):
        instance.rpc("resource.drain", {"targets": "1"})


def test_what_is_configured_is_verified(start: Starter, tmp_path: Path) -> None:
    host = os.uname().nodename
    wanted = ResourceSet({0: Node(host, (1 << 64) - 1, 0), 1: Node("other", (1 << 64) - 1, 0)})
    instance = start(size=2, broker="embedded", conf={"resource": {"path": _write(tmp_path / "R", wanted)}})
    drained = instance.rpc("resource.status")["drain"]
    reasons = "\n".join(entry["reason"] for entry in drained.values())
    assert f"rank 0 ({host}) missing resources: core" in reasons
    assert f"rank 1 got hostname '{host}', expected 'other'" in reasons


def test_fake_resources(start: Starter) -> None:
    conf = {"fake-resources": {"nnodes": 1000, "cores-per-node": 4, "gpus-per-node": 1}}
    instance = start(size=1, broker="embedded", conf=conf)
    everything = _sets(instance)["all"]
    assert everything.summary() == "rank[0-999]/core[0-3],gpu0"
    assert everything.nodelist == "fake[0-999]"
    assert not len(_sets(instance)["down"])
    jobs = instance.client.jobs
    jobspec = from_command(["true"], tasks=1000, nodes=1000, environment={})
    jobspec["attributes"]["system"]["exec"] = {"test": {"run_duration": "0.01s"}}
    jobid = jobs.submit(jobspec)
    jobs.wait_event(jobid, "clean", timeout=DEADLINE)
    assert jobs.get(jobid, ["ranks"])["ranks"] == "[0-999]"


def test_a_large_fake_cluster_of_two_kinds(start: Starter) -> None:
    kinds = [
        {"nnodes": 90_000, "cores-per-node": 128, "host-prefix": "cpu"},
        {"nnodes": 10_000, "gpus-per-node": 8, "host-prefix": "gpu", "properties": ["gpu", "fast"]},
    ]
    instance = start(size=1, broker="embedded", clock="manual", conf={"fake-resources": {"kinds": kinds}})
    everything = _sets(instance)["all"]
    assert everything.summary() == "rank[0-89999]/core[0-127] rank[90000-99999]/core[0-63],gpu[0-7]"
    assert everything.nodelist == "cpu[0-89999],gpu[0-9999]"
    job = instance.submit_mock("1h", nodes=2, num_tasks=2, gpus_per_task=8, requires="fast")
    wide = instance.submit_mock("1h", nodes=20_000, num_tasks=20_000, exclusive=True)
    instance.clock.advance("1h")
    assert (job.info()["nodelist"], wide.info()["nodelist"]) == ("gpu[0-1]", "cpu[0-19999]")


def test_other_resources_while_it_runs(start: Starter, tmp_path: Path) -> None:
    instance = start(size=1, broker="embedded")
    path = _write(tmp_path / "R", ResourceSet({0: Node("a", 0xFF, 0), 1: Node("b", 1, 0)}))
    with pytest.raises(FluxError, match="execeeding size=1"):
        instance.rpc("resource.reload", {"path": path, "xml": False, "force": False})
    instance.rpc("resource.reload", {"path": path, "xml": False, "force": True})
    assert _sets(instance)["all"].summary() == "rank0/core[0-7] rank1/core0"
    with pytest.raises(FluxError, match="No such file"):
        instance.rpc("resource.reload", {"path": "/nonexistent", "xml": False, "force": False})


def test_what_is_drained_stays_so(start: Starter, tmp_path: Path) -> None:
    attrs = {"statedir": str(tmp_path)}
    first = start(size=2, broker="embedded", attrs=attrs)
    first.rpc("resource.drain", {"targets": "0-1", "reason": "old"})
    first.rpc("resource.undrain", {"targets": "0"})
    first.stop()
    second = start(size=2, broker="embedded", attrs=attrs, conf={"resource": {"history": "0"}})
    assert {ranks: entry["reason"] for ranks, entry in second.rpc("resource.status")["drain"].items()} == {"1": "old"}
    assert second.rpc("resource.get")["method"] == "kvs"
    # The checkpoint has it: without history, the log begins anew.
    assert '"drain"' not in second.kvs.get_text("resource.eventlog")


def test_jobs_without_a_time_limit_follow_that_of_the_instance(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    free, limited = (
        jobs.submit(from_command(["sleep", "1000"])),
        jobs.submit(from_command(["sleep", "1000"], duration=500)),
    )
    for job_id in (free, limited):
        jobs.wait_event(job_id, "start", timeout=DEADLINE)
    for expiration in (4e9, 0.0):
        instance.rpc("resource.expiration-update", {"expiration": expiration})
        job = instance.rpc("job-manager.getattr", {"id": free, "attrs": ["R"]})
        assert job["R"]["execution"]["expiration"] == expiration
    job = instance.rpc("job-manager.getattr", {"id": limited, "attrs": ["R"]})
    assert 0 < job["R"]["execution"]["expiration"] < 4e9
    for job_id in (free, limited):
        jobs.cancel(job_id)
        jobs.result(job_id, timeout=DEADLINE)


def test_drained_nodes_are_found_by_their_names(start: Starter) -> None:
    instance = start(size=2, broker="embedded")
    there = instance.getattr("hostname")
    instance.rpc("resource.status")
    instance.rpc("module.remove", {"name": "resource"})
    for ranks, host in (("1", there), ("0", "gone"), ("7", there)):
        context = {"idset": ranks, "nodelist": host, "reason": "old", "overwrite": 0}
        instance.kvs.append("resource.eventlog", encode_event(make_event("drain", context, timestamp=4e9)))
    instance.rpc("module.load", {"path": "resource", "args": []})
    assert set(instance.rpc("resource.status")["drain"]) == {"0-1"}
    instance.rpc("module.remove", {"name": "resource"})
    for line in ("{}\n", encode_event(make_event("undrain", {}, timestamp=4e9))):
        instance.kvs.put("resource.eventlog", line)
        with pytest.raises(FluxError):
            instance.rpc("module.load", {"path": "resource", "args": []})


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"resource": {"path": 3}}, "Expected string, got integer"),
        ({"resource": {"odd": 3}}, "odd"),
        ({"resource": {"path": "/nonexistent"}}, "No such file"),
        ({"resource": {"scheduling": "/x"}}, "requires resource.path"),
        ({"resource": {"config": []}}, "no hosts configured"),
        ({"resource": {"history": "x"}}, "invalid history time"),
        ({"resource": []}, "Expected object, got array"),
        ({"fake-resources": {}}, "requires the 'nnodes' key"),
        ({"fake-resources": {"nnodes": 0}}, "nnodes must be a number"),
        ({"fake-resources": {"nnodes": 1, "cores": 3}}, "unknown key 'cores': known are cores-per-node"),
        ({"fake-resources": {"kinds": []}}, "must be a list of tables"),
        ({"fake-resources": {"kinds": [{"nnodes": 1}], "nnodes": 1}}, "nothing else may stand"),
        ({"fake-resources": {"kinds": [{"nnodes": 1}, {"nnodes": 1}]}}, "give each kind a host-prefix"),
        ({"fake-resources": {"nnodes": 1, "properties": ["a!"]}}, "properties must be a list of names"),
        ({"fake-resources": {"nnodes": 1 << 18}}, "nnodes must be a number from 1 to 131072"),
        ({"fake-resources": {"nnodes": 1, "amend-r": "x"}}, "embedded brokers cannot"),
    ],
)
def test_malformed_configuration(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        decode_config(config)


def test_ranks_drained_together_are_shown_together() -> None:
    drains = Drains()
    drains.drain([0, 2], 10.2, "same", 0)
    drains.drain([1], 10.4, "same", 0)
    drains.drain([3], 10.4, None, 0)
    assert drains.encode() == {
        "0-2": {"timestamp": 10.0, "reason": "same"},
        "3": {"timestamp": 10.0, "reason": ""},
    }


def test_verification() -> None:
    node = Node("a", 0b1111, 0)
    assert verify(0, node, node) == ""
    assert verify(0, node, Node("a", 0b11111, 1)) == ""
    assert verify(0, node, Node("a", 0b11, 0)) == "rank 0 (a) missing resources: core[2-3]"
    assert verify(0, node, None) == ""
