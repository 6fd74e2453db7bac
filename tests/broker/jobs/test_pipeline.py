"""Frobnicators and validators that the configuration chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.config import TableError, check_tables
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import FLAG_NOVALIDATE
from tests.broker.jobs.played import jobspec, played_instance


def _ingest(name: str = "validator", **table: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"ingest": {name: table}}


def test_the_validator_is_disabled(tmp_path: Path) -> None:
    with played_instance(tmp_path, _ingest(disable=True)) as flux:
        odd = jobspec()
        odd["odd"] = 1
        flux.wait_end(flux.submit(odd))
        flux.rpc("config.load", {})
        with pytest.raises(FluxError, match="Extraneous key"):
            flux.submit(odd)
        flux.wait_end(flux.submit(odd, flags=FLAG_NOVALIDATE))


def test_what_can_never_run_is_refused_at_once(tmp_path: Path) -> None:
    with played_instance(tmp_path, _ingest(plugins=["jobspec,feasibility"])) as flux:
        with pytest.raises(FluxError, match="unsatisfiable request: need 3 node"):
            flux.submit(jobspec(nodes=3))
        flux.wait_end(flux.submit(jobspec(nodes=2)))


@pytest.mark.parametrize(
    ("table", "which"),
    [
        ({}, "all jobs in this instance"),
        ({"require-instance": {"minnodes": 2}}, "jobs >= 2 nodes or 32 cores"),
        ({"require-instance": {"mincores": 3}}, "jobs >= 3 cores"),
        ({"args": ["--require-instance-mincores=3"]}, "jobs >= 3 cores"),
    ],
)
def test_large_jobs_are_instances(tmp_path: Path, table: dict[str, Any], which: str) -> None:
    with played_instance(tmp_path, _ingest(plugins=["require-instance"], **table)) as flux:
        with pytest.raises(FluxError) as caught:
            flux.submit(jobspec(nodes=2, cores=2))
        text = f"Direct job submission disabled for {which}. Please use flux-batch(1) or flux-alloc(1)"
        assert caught.value.text == text
        flux.submit(jobspec("/usr/bin/flux", "broker", nodes=2, cores=2))
        flux.submit(jobspec("sh", nodes=2, cores=2, batch={"script": "x"}))
        if table:
            flux.submit(jobspec())


def test_defaults_without_constraints(tmp_path: Path) -> None:
    config = {
        "queues": {"a": {"requires": ["moon"], "policy": {"jobspec": {"defaults": {"system": {"duration": "9s"}}}}}},
        **_ingest("frobnicator", plugins=["defaults"]),
    }
    with played_instance(tmp_path, config) as flux:
        system = flux.job(flux.submit(jobspec(queue="a"))).jobspec["attributes"]["system"]
        assert (system["duration"], system.get("constraints")) == (9.0, None)
        flux.rpc("config.load", {**config, **_ingest("frobnicator", disable=True)})
        assert flux.job(flux.submit(jobspec(queue="a"))).jobspec["attributes"]["system"]["duration"] == 0


def test_defaults_come_without_validation_too(tmp_path: Path) -> None:
    config = {"policy": {"jobspec": {"defaults": {"system": {"duration": "9s"}}}}}
    with played_instance(tmp_path, config) as flux:
        assert flux.job(flux.submit(jobspec(), flags=FLAG_NOVALIDATE)).facts.duration == 9.0


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            _ingest(plugins=["a.py"]),
            (
                "[ingest.validator]: plugin 'a.py' needs flux-core; "
                "embedded brokers have feasibility, jobspec, require-instance, schema"
            ),
        ),
        (
            _ingest("frobnicator", plugins=["defaults,x"]),
            "[ingest.frobnicator]: plugin 'x' needs flux-core; embedded brokers have constraints, defaults",
        ),
        (
            _ingest(args=["--schema=x"]),
            "[ingest.validator]: argument '--schema=x' is not one of an embedded broker's plugins",
        ),
        (_ingest(args=["--require-version=2"]), "[ingest.validator]: Required jobspec version too high: 2 is not 1"),
    ],
)
def test_what_needs_flux_core_is_refused(config: dict[str, Any], text: str) -> None:
    with pytest.raises(TableError) as caught:
        check_tables(config)
    assert (caught.value.module, str(caught.value)) == ("job-ingest", text)
    check_tables(_ingest(args=["--require-version=any"]))
