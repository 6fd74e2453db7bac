"""Queues that a new configuration adds, changes or removes while the instance runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import INACTIVE, RUN, SCHED
from tests.broker.jobs.played import PlayedInstance, jobspec, played_instance


def _load(flux: PlayedInstance, **tables: Any) -> None:  # noqa: ANN401
    flux.rpc("config.load", tables)


def _status(flux: PlayedInstance, name: str | None = None) -> dict[str, Any]:
    return flux.rpc("job-manager.queue-status", {} if name is None else {"name": name})


def _start(flux: PlayedInstance, name: str | None = None) -> None:
    flux.rpc("job-manager.queue-start", {"start": True, "all": True, **({"name": name} if name else {})})


def test_the_policy_of_a_queue_lies_over_that_of_all(tmp_path: Path) -> None:
    policy = {"limits": {"duration": "1h"}, "jobspec": {"defaults": {"system": {"queue": "batch"}}}}
    batch = {"requires": ["fast"], "policy": {"limits": {"duration": "1m"}}}
    with played_instance(tmp_path) as flux:
        assert flux.rpc("job-manager.queue-list")["conf"] == {"queues": []}
        _load(flux, queues={"batch": batch, "debug": {}}, policy=policy)
        assert flux.rpc("job-manager.queue-list")["conf"] == {
            "queues": [
                {"name": "batch", "requires": ["fast"], "policy": {**policy, "limits": {"duration": "1m"}}},
                {"name": "debug", "policy": policy},
            ],
            "policy": policy,
            "default_queue": "batch",
        }


def test_a_queue_is_added_and_removed(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        assert flux.rpc("job-manager.queue-list")["queues"] == []
        _load(flux, queues={"batch": {}})
        assert flux.rpc("job-manager.queue-list")["queues"] == ["batch"]
        assert _status(flux, "batch") == {"enable": True, "start": False}
        with pytest.raises(FluxError, match="a named queue is required"):
            _status(flux)
        with pytest.raises(FluxError, match="no queue specified"):
            flux.submit(jobspec())
        _start(flux)
        flux.wait_end(flux.submit(jobspec(queue="batch")))
        _load(flux)
        assert _status(flux) == {"enable": True, "start": True}
        flux.wait_end(flux.submit(jobspec()))


def test_queues_that_remain_keep_their_state(tmp_path: Path) -> None:
    with played_instance(tmp_path, {"queues": {"a": {}, "b": {}}}) as flux:
        _start(flux, "a")
        flux.rpc("job-manager.queue-enable", {"name": "a", "enable": False, "reason": "lunch", "all": False})
        _load(flux, queues={"a": {"requires": ["fast"]}, "c": {}})
        assert _status(flux, "a") == {"enable": False, "start": True, "disable_reason": "lunch"}
        assert _status(flux, "c") == {"enable": True, "start": False}
        with pytest.raises(FluxError, match="'b' is not a valid queue"):
            _status(flux, "b")
        _load(flux, queues={"b": {}})
        assert _status(flux, "b") == {"enable": True, "start": False}


def test_the_anonymous_queue_begins_anew(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        flux.rpc("job-manager.queue-start", {"start": False, "reason": "lunch", "all": False})
        held = flux.submit(jobspec())
        _load(flux, queues={"a": {}})
        _load(flux)
        assert _status(flux) == {"enable": True, "start": True}
        assert flux.job(held).state == SCHED
        _start(flux)
        flux.wait_end(held)


def test_jobs_of_a_removed_queue_stay_active(tmp_path: Path) -> None:
    with played_instance(tmp_path, {"queues": {"a": {}}}, ranks=1) as flux:
        stopped = flux.submit(jobspec(queue="a"))
        _start(flux)
        flux.wait_end(stopped)
        running = flux.submit(jobspec("sleep", cores=4, queue="a"))
        waiting = flux.submit(jobspec(queue="a"))
        flux.wait_state(running, RUN)
        _load(flux, queues={"b": {}})
        flux.executor.end(running, 0)
        flux.wait_end(waiting)
        assert flux.job(waiting).state == INACTIVE


def test_limits_and_defaults_change(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        limits = {"limits": {"duration": "1m", "job-size": {"max": {"ncores": 2}}}}
        _load(flux, policy={**limits, "jobspec": {"defaults": {"system": {"duration": "30s"}}}})
        job_id = flux.submit(jobspec())
        assert flux.job(job_id).facts.duration == 30.0
        with pytest.raises(FluxError, match="exceeds policy limit of 1m"):
            flux.submit(jobspec(duration=120))
        with pytest.raises(FluxError, match=r"requested ncores \(3\) exceeds policy limit of 2"):
            flux.submit(jobspec(cores=3))
        _load(flux)
        flux.wait_end(flux.submit(jobspec(cores=3, duration=120)))


def test_a_refused_configuration_changes_nothing(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        for topic in ("config.load", "job-manager.config-reload"):
            with pytest.raises(FluxError, match=r"1 object item\(s\) left unpacked: x"):
                flux.rpc(topic, {"queues": {"a": {}, "b": {"x": 1}}})
        assert flux.rpc("job-manager.queue-list")["queues"] == []
        assert flux.rpc("config.get") == {}


def test_limits_of_inactive_jobs_change(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec())
        flux.wait_end(job_id)
        flux.manager.table.on_forget.append(lambda job: flux.broker.reactor.stop())
        _load(flux, **{"job-manager": {"inactive-num-limit": 0}})
        flux.run_until(lambda: not flux.manager.table.inactive)


def test_queues_are_stopped_by_a_restart(tmp_path: Path) -> None:
    config = {"queues": {"a": {}}, "job-manager": {"stop-queues-on-restart": True}}
    with played_instance(tmp_path, config) as flux:
        _start(flux)
        flux.manager.save()
        flux.settle()
        flux.broker.parts.kvs.preserve()
    with played_instance(tmp_path, config) as flux:
        reason = "Automatically stopped due to restart"
        assert _status(flux, "a") == {"enable": True, "start": False, "stop_reason": reason}
