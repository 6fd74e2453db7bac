"""Each difference that costs tests of flux-core's own suite is still one: a test here fails when it is not.

Then the entry in ``differences.py`` goes, or its count changes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from pytest_flux import flux_instance
from pytest_flux.client.jobspec import from_command
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58plain
from tests.parity.differences import DIFFERENCES

DEADLINE = 60.0

instance = flux_instance(size=1, broker="embedded", scope="module")

Check: TypeAlias = "Callable[[FluxInstance], None]"
CHECKS: dict[str, Check] = {}


def _shows(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


def _refusal(instance: FluxInstance, topic: str, payload: dict[str, Any] | None = None) -> tuple[int, str]:
    with pytest.raises(FluxError) as caught:
        instance.rpc(topic, payload)
    return caught.value.errnum, caught.value.text or ""


@_shows("modules log less")
def _no_lines_of_modules(instance: FluxInstance) -> None:
    assert "rmmod" not in instance.run(["flux", "dmesg"]).stdout


@_shows("service errors have texts")
def _texts_of_errors(instance: FluxInstance) -> None:
    errnum, text = _refusal(instance, "kvs.lookup", {})
    assert errnum == errno.EPROTO
    assert text


@_shows("no auxiliary channels")
def _channels(instance: FluxInstance) -> None:
    command = {"cwd": "/", "cmdline": ["true"], "env": {}, "opts": {}, "channels": ["x"]}
    stream = instance.client.rpc("rexec.exec", {"cmd": command, "flags": 0}, streaming=True)
    with pytest.raises(FluxError) as caught:
        stream.get(DEADLINE)
    assert caught.value.errnum == errno.ENOTSUP


@_shows("modules are compiled")
def _libraries_and_scripts(instance: FluxInstance) -> None:
    for path in ("/x/y.so", "/x/y.py"):
        assert _refusal(instance, "module.load", {"path": path, "args": []})[0] == errno.ENOTSUP


@_shows("schedulers are built in")
def _scheduler_of_ones_own(instance: FluxInstance) -> None:
    for topic, payload in (
        ("sched-hello", {}),
        ("sched-ready", {"mode": "unlimited"}),
        ("exec-hello", {"service": "x"}),
    ):
        assert _refusal(instance, f"job-manager.{topic}", payload)[0] == errno.ENOSYS


@_shows("plugins are compiled")
def _jobtap_plugins(instance: FluxInstance) -> None:
    assert _refusal(instance, "job-manager.jobtap", {"load": "x.so"})[0] == errno.ENOSYS


@_shows("no ZeroMQ")
def _zeromq(instance: FluxInstance) -> None:
    with pytest.raises(FluxError) as caught:
        instance.getattr("tbon.zmqdebug")
    assert caught.value.errnum == errno.ENOENT


@_shows("no hwloc")
def _hwloc(instance: FluxInstance) -> None:
    assert _refusal(instance, "resource.topo-get")[0] == errno.ENOSYS
    assert _refusal(instance, "resource.reload", {"path": "/", "xml": True, "force": False})[0] == errno.ENOSYS


@_shows("no hooks for tests")
def _hooks(instance: FluxInstance) -> None:
    assert _refusal(instance, "kvs.setroot-pause", {"namespace": "primary"})[0] == errno.ENOSYS


@_shows("no libpmi")
def _libpmi(instance: FluxInstance) -> None:
    tell = ["sh", "-c", "echo ${FLUX_PMI_LIBRARY_PATH-none}"]
    assert instance.run(["flux", "run", *tell]).stdout == "none\n"


@_shows("no housekeeping")
def _housekeeping(instance: FluxInstance) -> None:
    assert _refusal(instance, "job-manager.housekeeping-kill", {"signum": 15})[0] == errno.ENOSYS


@_shows("no rc1 unless it is named")
def _rc1(instance: FluxInstance) -> None:
    assert instance.getattr("broker.rc1_path") == ""


@_shows("no administration log")
def _administration_log(instance: FluxInstance) -> None:
    assert not instance.kvs.exists("admin.eventlog")


@_shows("no plugins of shells and brokers")
def _shell_plugins(instance: FluxInstance) -> None:
    jobspec = from_command(["true"])
    jobspec["attributes"]["system"].setdefault("shell", {}).setdefault("options", {})["userrc"] = "x.lua"
    jobs = instance.client.jobs
    assert jobs.result(jobs.submit(jobspec), timeout=DEADLINE).exit_code != 0


@_shows("no debuggers")
def _proctable(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    job_id = jobs.submit(from_command(["sleep", "1000"]))
    jobs.wait_event(job_id, "start", timeout=DEADLINE)
    shell = f"{os.getuid()}-shell-{f58plain(job_id)}"
    assert shell in str(instance.rpc("module.list"))
    assert _refusal(instance, f"{shell}.proctable", {})[0] == errno.ENOSYS
    jobs.cancel(job_id)
    jobs.result(job_id, timeout=DEADLINE)


@pytest.mark.parametrize("name", [name for name, difference in DIFFERENCES.items() if difference.lost])
def test_difference_is_there(instance: FluxInstance, name: str) -> None:
    assert name in CHECKS, "a difference that costs tests has a check"
    CHECKS[name](instance)


def test_checks_are_of_differences() -> None:
    assert CHECKS.keys() <= DIFFERENCES.keys()
