"""Modules that are loaded and removed while an instance runs, and an instance that begins without any."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pytest_flux import flux_instance
from pytest_flux.client import Flux
from pytest_flux.client.jobspec import from_command
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.protocol.errors import FluxError

DEADLINE = 60.0

instance = flux_instance(size=2, broker="embedded", scope="module")


def _refusal(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(FluxError) as caught:
        call()
    return caught.value.errnum, caught.value.text or ""


def _load(instance: FluxInstance, path: str, *arguments: str, **more: object) -> None:
    instance.rpc("module.load", {"path": path, "args": list(arguments), **more})


def _remove(instance: FluxInstance, name: str) -> None:
    instance.rpc("module.remove", {"name": name})


def _modules(instance: FluxInstance) -> dict[str, list[str]]:
    return {module["name"]: module["services"] for module in instance.rpc("module.list")["mods"]}


def test_service_comes_and_goes_with_its_module(instance: FluxInstance) -> None:
    assert _modules(instance)["kvs"] == ["kvs"]
    instance.kvs.put("a", "1")
    _remove(instance, "kvs")
    assert "kvs" not in _modules(instance)
    assert _refusal(lambda: instance.kvs.put("a", "2"))[0] == errno.ENOSYS
    assert _refusal(lambda: _remove(instance, "kvs"))[0] == errno.ENOENT
    _load(instance, "kvs")
    # As in flux-core, the module has written a checkpoint and begins with it.
    assert instance.kvs.get_text("a") == "1"
    assert _refusal(lambda: _load(instance, "kvs"))[0] == errno.EEXIST
    instance.kvs.unlink("a")


def test_module_that_nobody_has_loaded_yet_is_loaded_once(instance: FluxInstance) -> None:
    _load(instance, "job-list")
    assert _refusal(lambda: _load(instance, "job-list"))[0] == errno.EEXIST


def test_jobs_wait_while_there_is_no_scheduler(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    _remove(instance, "sched-simple")
    job_id = jobs.submit(from_command(["true"]))
    jobs.wait_event(job_id, "priority", timeout=DEADLINE)
    assert instance.rpc("job-manager.alloc-query")["queue_length"] == 1
    assert _refusal(lambda: instance.rpc("sched.stats-get"))[0] == errno.ENOSYS
    _load(instance, "sched-simple", "queue-depth=4")
    assert jobs.result(job_id, timeout=DEADLINE).exit_code == 0


def test_jobs_outlive_a_reload_of_the_job_manager(instance: FluxInstance) -> None:
    jobs = instance.client.jobs
    _remove(instance, "sched-simple")
    job_id = jobs.submit(from_command(["true"]))
    jobs.wait_event(job_id, "priority", timeout=DEADLINE)
    _remove(instance, "job-manager")
    assert _refusal(lambda: jobs.submit(from_command(["true"])))[0] == errno.ENOSYS
    _load(instance, "job-manager")
    _load(instance, "sched-simple")
    assert jobs.result(job_id, timeout=DEADLINE).exit_code == 0


def test_arguments_of_modules(instance: FluxInstance) -> None:
    _remove(instance, "job-exec")
    _load(instance, "job-exec", "kill-timeout=1m", "kill-signal=SIGUSR2")
    stats = instance.rpc("job-exec.stats-get")
    assert (stats["kill-timeout"], stats["kill-signal"], stats["method"]) == (60.0, "SIGUSR2", "bulk-exec")
    _remove(instance, "job-exec")
    for argument, text in (
        ("kill-timeout=1f", "invalid kill-timeout: 1f"),
        ("term-signal=-1", "invalid term-signal: -1"),
        ("method=other", "unknown exec.method 'other'"),
        ("nosuch=1", "job-exec: unknown option: nosuch=1"),
    ):
        refused = _refusal(lambda argument=argument: _load(instance, "job-exec", argument))  # type: ignore[misc]
        assert refused == (errno.EINVAL, text)
        assert "job-exec" not in _modules(instance)
    _load(instance, "job-exec")
    _remove(instance, "sched-simple")
    for argument in ("mode=limited=0", "mode=other", "queue-depth=x", "noverify"):
        assert _refusal(lambda argument=argument: _load(instance, "sched-simple", argument))[0] == errno.EINVAL  # type: ignore[misc]
    _load(instance, "sched-simple", "mode=unlimited")


def test_content_without_a_backing_store(instance: FluxInstance) -> None:
    _remove(instance, "content-sqlite")
    for topic in ("content.flush", "content.checkpoint-get"):
        assert _refusal(lambda topic=topic: instance.rpc(topic))[0] == errno.ENOSYS  # type: ignore[misc]
    assert _refusal(lambda: instance.rpc("content.unregister-backing"))[0] == errno.EINVAL
    for argument in ("journal_mode=NONE", "synchronous=NONE", "max-checkpoints=0", "other"):
        refused = _refusal(lambda argument=argument: _load(instance, "content-sqlite", argument))  # type: ignore[misc]
        assert refused[0] == errno.EINVAL
    _load(instance, "content-sqlite", "journal_mode=DELETE", "synchronous=FULL")
    assert instance.rpc("content-sqlite.stats-get")["config"] == {"journal_mode": "DELETE", "synchronous": "FULL"}
    assert "journal_mode=DELETE synchronous=FULL" in instance.run(["flux", "dmesg"]).stdout
    _remove(instance, "content-sqlite")
    before = instance.rpc("config.get")
    instance.rpc("config.load", {**before, "content-sqlite": {"synchronous": "EXTRA", "max_checkpoints": 2}})
    _load(instance, "content-sqlite", "journal_mode=PERSIST")
    assert instance.rpc("content-sqlite.stats-get")["config"] == {"journal_mode": "PERSIST", "synchronous": "EXTRA"}
    instance.rpc("config.load", before)


def test_modules_that_cannot_be_loaded_here(instance: FluxInstance) -> None:
    for path in ("/usr/lib/flux/modules/kvs.so", "./script.py"):
        errnum, text = _refusal(lambda path=path: _load(instance, path))  # type: ignore[misc]
        assert errnum == errno.ENOTSUP
        assert "install flux-core" in text
    errnum, text = _refusal(lambda: _load(instance, "nosuch"))
    assert errnum == errno.ENOENT
    assert text.startswith("module not found in search path")
    assert _refusal(lambda: _load(instance, "kvs-watch", name="other"))[0] == errno.ENOTSUP
    assert _refusal(lambda: _load(instance, "overlay"))[0] == errno.EEXIST
    assert _refusal(lambda: _remove(instance, "overlay"))[0] == errno.EPERM


def test_requests_are_counted(instance: FluxInstance) -> None:
    def count() -> int:
        received: int = instance.rpc("config.stats-get")["rx"]["request"]
        return received

    before = count()
    instance.rpc("config.ping", {})
    assert count() == before + 2
    instance.rpc("config.stats-clear")
    assert count() == 1


def test_trace_of_a_module(instance: FluxInstance) -> None:
    wanted = {"names": ["config"], "typemask": 0, "topic_glob": "*", "full": True}
    with Flux(instance.uri) as flux:
        stream = flux.rpc("module.trace", wanted, streaming=True)
        # Both are requests of one client, which the broker handles in their order.
        flux.rpc("content.ping", {}).get()
        flux.rpc("config.ping", {"pad": "x"}).get()
        told = [stream.get() for _ in range(2)]
    seen = [(each["prefix"], each["name"], each["topic"], each["type"]) for each in told]
    assert seen == [("rx", "config", "config.ping", 1), ("tx", "config", "config.ping", 2)]
    assert told[0]["payload"] == {"pad": "x"}
    assert _refusal(lambda: instance.rpc("module.trace", wanted))[0] == errno.EPROTO


# -- instances that begin without modules


def _run(program: str, *settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded", "-s1", *settings]
    return subprocess.run(
        [*command, "sh", "-c", program],
        env={name: value for name, value in os.environ.items() if not name.startswith("FLUX_")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def test_rc1_begins_without_modules_and_loads_them() -> None:
    ended = _run(
        "flux kvs put a=1 && flux kvs get a && flux module list -n -o '{name}' 2>/dev/null; true",
        "-Sbroker.rc1_path=flux module load content && flux module load content-sqlite && flux module load kvs",
        "-Sbroker.rc3_path=flux module remove kvs; flux module remove content-sqlite; flux module remove content",
    )
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, "1"), ended.stderr


def test_empty_rc1_loads_nothing() -> None:
    ended = _run("flux kvs put a=1", "-Sbroker.rc1_path=")
    assert ended.returncode == 1
    assert "Function not implemented" in ended.stderr


def test_module_that_rc3_leaves_behind() -> None:
    ended = _run("flux module load content", "-Sbroker.rc1_path=", "-Sbroker.rc3_path=")
    assert ended.returncode == 1
    assert "broker module 'content' was not properly shut down" in ended.stderr


def test_jobs_under_an_rc1_of_ones_own() -> None:
    modules = "content content-sqlite kvs kvs-watch resource job-manager job-info job-ingest job-exec sched-simple"
    rc1 = f"for name in {modules}; do flux module load $name || exit 1; done"
    ended = _run("flux run echo hello", f"-Sbroker.rc1_path={rc1}")
    assert (ended.returncode, ended.stdout) == (0, "hello\n"), ended.stderr
