"""The jobs that flux-core 0.88 ran: the same jobspec makes the same events, the same R, the same listing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.jobs.restart import replay_job
from pytest_flux.protocol.eventlog import encode_event
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.job_state import RUN
from tests.broker.jobs.played import PlayedInstance, encode, played_instance

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "flux-0.88.0-jobs.json").read_text(encoding="utf-8")
)
_TIMES = ("t_submit", "t_depend", "t_priority", "t_sched", "t_run", "t_cleanup", "t_inactive", "expiration")


def _play(flux: PlayedInstance, recorded: dict[str, Any]) -> int:
    """Submit a recorded job, and have the executor do what its tasks did."""
    status = next(event["context"]["status"] for event in recorded["events"] if event["name"] == "finish")
    spec = json.loads(json.dumps(recorded["jobspec"]))
    spec["tasks"][0]["command"] = ["sleep", "played"]
    spec["attributes"]["system"]["job"] = {"name": recorded["listed"]["name"]}
    job_id = flux.submit(spec)
    flux.wait_state(job_id, RUN)
    exceptions = [event for event in recorded["events"] if event["name"] == "exception"]
    if not exceptions:
        flux.executor.end(job_id, status)
    elif exceptions[0]["context"]["type"] == "cancel":
        flux.rpc("job-manager.raise", {"id": job_id, "type": "cancel", "severity": 0, "note": ""})
    flux.wait_end(job_id)
    return job_id


def _timeless(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "timestamp"}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["listed"]["name"])
def test_a_recorded_job(tmp_path: Path, recorded: dict[str, Any]) -> None:
    """Events with their contexts, R, and what job-list says, times and hosts aside."""
    with played_instance(tmp_path) as flux:
        job_id = _play(flux, recorded)
        log = flux.broker.parts.kvs.lookup(kvs_key(job_id, "eventlog")).decode()
        events = [json.loads(line) for line in log.splitlines()]
        expected = [_timeless(event) for event in recorded["events"]]
        for event in expected:
            if "userid" in event.get("context", {}):
                event["context"]["userid"] = os.getuid()
        assert [_timeless(event) for event in events] == expected
        # The members' order too: what is in the KVS is text.
        assert [list(event.get("context", {})) for event in events] == [
            list(event.get("context", {})) for event in recorded["events"]
        ]
        resources = json.loads(flux.broker.parts.kvs.lookup(kvs_key(job_id, "R")))
        assert resources["execution"]["R_lite"] == recorded["R"]["execution"]["R_lite"]
        assert list(resources["execution"]) == list(recorded["R"]["execution"])
        listed = flux.rpc("job-list.list-id", {"id": job_id, "attrs": ["all"]})["job"]
        wanted = recorded["listed"]
        for key in ("ntasks", "ncores", "nnodes", "ranks", "success", "waitstatus", "priority", "duration", "cwd"):
            assert listed[key] == wanted[key], key
        assert listed["annotations"] == wanted["annotations"]
        assert listed["exception_occurred"] == wanted["exception"]["occurred"]


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["listed"]["name"])
def test_a_recorded_log_is_understood(recorded: dict[str, Any]) -> None:
    """The times of job-list come from the log alone."""
    log = "".join(map(encode_event, recorded["events"])).encode()
    job = replay_job(recorded["id"], log, encode(recorded["jobspec"]), encode(recorded["R"]))
    listed = recorded["listed"]
    for name in _TIMES[:-1]:
        assert getattr(job, name) == pytest.approx(listed[name], abs=1e-6), name
    assert job.facts.name == listed["name"]
    assert job.facts.nodelist == listed["nodelist"]
    assert job.facts.ranks == listed["ranks"]
    assert {1: "COMPLETED", 2: "FAILED", 4: "CANCELED", 8: "TIMEOUT"}[job.result] == listed["result"]


def test_what_is_in_the_kvs(tmp_path: Path) -> None:
    """J as it was sent; the jobspec without its environment, otherwise with its members in their order."""
    with played_instance(tmp_path) as flux:
        spec = json.loads(json.dumps(RECORDED[0]["jobspec"]))
        spec["attributes"]["system"] = {"environment": {"SECRET": "1"}, **spec["attributes"]["system"]}
        job_id = flux.submit(spec)
        flux.wait_end(job_id)
        names = sorted(flux.broker.parts.kvs.list(kvs_key(job_id)))
        assert names == ["J", "R", "eventlog", "jobspec"]
        stored = flux.broker.parts.kvs.lookup(kvs_key(job_id, "jobspec")).decode()
        assert stored == json.dumps(RECORDED[0]["jobspec"], separators=(",", ":"))
        assert flux.broker.parts.kvs.lookup(kvs_key(job_id, "J")).decode().endswith(".none")
