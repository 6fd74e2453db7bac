"""job-ingest: what is taken, what is refused, and in which words."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import fluid_timestamp
from pytest_flux.protocol.signed_jobspec import sign_none
from tests.broker.jobs.played import encode, jobspec, played_instance
from tests.protocol.test_jobspec import mutate


@pytest.mark.parametrize(
    ("change", "errnum", "text"),
    [
        ({"urgency": 32}, errno.EINVAL, "urgency range is [0:31]"),
        ({"urgency": -1}, errno.EINVAL, "urgency range is [0:31]"),
        ({"flags": 1}, errno.EPROTO, "invalid job flags"),
        ({"flags": "x"}, errno.EPROTO, "error decoding job request"),
        ({"J": None}, errno.EPROTO, "error decoding job request"),
        ({"J": "x.y"}, errno.EINVAL, "could not unwrap jobspec"),
        ({"J": sign_none(b"{}", os.getuid() + 1)}, errno.EPERM, "requestor="),
        ({"J": sign_none(b"{", os.getuid())}, errno.EINVAL, "jobspec: invalid JSON"),
        ({"J": sign_none(b"{}", os.getuid())}, errno.EPERM, "Missing key (attributes)"),
        ({"J": sign_none(b"[]", os.getuid())}, errno.EINVAL, "jobspec must be a mapping"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], errnum: int, text: str) -> None:
    """As flux-core's job-ingest does."""
    with played_instance(tmp_path) as flux:
        request = {"J": sign_none(encode(jobspec()), os.getuid()), "urgency": 16, "flags": 0, **change}
        with pytest.raises(FluxError) as caught:
            flux.rpc("job-ingest.submit", {key: value for key, value in request.items() if value is not None})
        assert caught.value.errnum == errnum
        assert text in (caught.value.text or "")
        assert not flux.broker.parts.kvs.list("job")


def test_ids_grow(tmp_path: Path) -> None:
    """And so does what job-ingest calls its clock."""
    with played_instance(tmp_path) as flux:
        ids = [flux.submit(jobspec()) for _ in range(5)]
        assert ids == sorted(set(ids))
        assert flux.rpc("job-ingest.getinfo")["timestamp"] >= fluid_timestamp(ids[-1])
        assert flux.rpc("job-manager.getinfo") == {"max_jobid": ids[-1]}


def test_without_validation(tmp_path: Path) -> None:
    """The scheduler then is the first to complain."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit({"version": 1}, flags=8)
        flux.wait_end(job_id)
        event = flux.job(job_id).eventlog[-2]
        assert event["name"] == "exception"
        assert event["context"]["type"] == "alloc"
        assert "cannot parse jobspec" in event["context"]["note"]


def test_what_can_never_run(tmp_path: Path) -> None:
    """Is refused by the scheduler, in flux-core's words."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec(nodes=3))
        flux.wait_end(job_id)
        assert flux.job(job_id).eventlog[-2]["context"] == {
            "type": "alloc",
            "severity": 0,
            "note": "unsatisfiable request: need 3 node(s) with 1 cores each, only 2 eligible",
            "userid": os.getuid(),
        }
        with pytest.raises(FluxError) as caught:
            flux.rpc("feasibility.check", {"jobspec": jobspec(nodes=3)})
        assert caught.value.errnum == errno.EOVERFLOW
        assert flux.rpc("feasibility.check", {"jobspec": jobspec(nodes=2)}) == {}


def test_policy(tmp_path: Path) -> None:
    """Defaults are filled in, limits kept."""
    config = {
        "policy": {
            "jobspec": {"defaults": {"system": {"duration": "1m", "queue": "batch"}}},
            "limits": {"duration": "1h", "job-size": {"max": {"ncores": 4}, "min": {"ncores": 2}}},
        },
        "queues": {
            "batch": {"requires": ["b"]},
            "debug": {"policy": {"limits": {"duration": "2m", "job-size": {"max": {"ncores": -1}}}}},
        },
    }
    with played_instance(tmp_path, config) as flux:
        system = flux.job(flux.submit(jobspec(cores=2))).jobspec["attributes"]["system"]
        assert (system["duration"], system["queue"]) == (60.0, "batch")
        assert system["constraints"] == {"properties": ["b"]}
        for spec, text in (
            (jobspec(cores=5), "requested ncores (5) exceeds policy limit of 4 for queue batch"),
            (jobspec(cores=1), "requested ncores (1) is under policy limit of 2 for queue batch"),
            (jobspec(cores=2, duration=7200), "requested duration (2h) exceeds policy limit of 1h for queue batch"),
            (jobspec(cores=2, queue="debug", duration=240), "(4m) exceeds policy limit of 2m for queue debug"),
            (jobspec(cores=2, queue="x"), "Invalid queue 'x' specified"),
        ):
            with pytest.raises(FluxError) as caught:
                flux.submit(spec)
            assert caught.value.errnum == (errno.EPERM if "Invalid queue" in text else errno.EINVAL)
            assert text in (caught.value.text or "")
        flux.submit(jobspec(cores=5, queue="debug"))


def test_thousands_of_malformed_requests(tmp_path: Path) -> None:
    """An answer to each, and then a job runs."""
    chance = random.Random(15)
    good = {"J": sign_none(encode(jobspec()), os.getuid()), "urgency": 16, "flags": 0}
    with played_instance(tmp_path) as flux:
        calls = []
        for number in range(2000):
            if number % 2:
                payload = mutate(good, chance)
            else:
                payload = {**good, "J": sign_none(encode(mutate(jobspec(), chance)), os.getuid())}
            if isinstance(payload, dict):
                calls.append(flux.call("job-ingest.submit", payload))
        flux.run_until(lambda: all(call.answers or call.error for call in calls))
        refused = [call.error for call in calls if call.error is not None]
        assert len(refused) > 1000
        assert {error.errnum for error in refused} <= {errno.EINVAL, errno.EPROTO, errno.EPERM}
        job_id = flux.submit(jobspec())
        flux.wait_end(job_id)
        assert flux.events(job_id)[-1] == "clean"
