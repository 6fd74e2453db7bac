"""Workers of pytest-xdist as tasks of a Flux job: right results, and nothing left however a run ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import pytest_flux
from pytest_flux.protocol.job_state import INACTIVE
from tests.plugin.conftest import Run

pytest.importorskip("xdist", reason="pytest-xdist is not installed")

PLAIN = ("-p", "no:randomly", "-p", "no:asyncio")
LIMIT = 60.0

SUITE = """
import os, pytest

@pytest.mark.parametrize("number", range(8))
def test(number, worker_id, tmp_path):
    os.write(2, f"hello from {number}\\n".encode())
    assert tmp_path.is_dir()
    assert not {name for name in os.environ if name.startswith(("FLUX_JOB_", "FLUX_TASK_", "PMI_"))}
    with open("seen", "a") as file:
        file.write(f"{worker_id} {os.environ['FLUX_URI']}\\n")
"""

CRASH = """
import os, pytest, signal

@pytest.mark.parametrize("number", range(8))
def test(number):
    if number == 3:
        os.write(2, b"last words\\n")
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def enclosing() -> Iterator[pytest_flux.FluxInstance]:
    """An instance of two brokers, for the workers of many runs."""
    with pytest_flux.start(size=2, broker="embedded") as instance:
        yield instance


@pytest.fixture
def inside(enclosing: pytest_flux.FluxInstance, monkeypatch: pytest.MonkeyPatch) -> pytest_flux.FluxInstance:
    """The same, with pytest inside of it."""
    monkeypatch.setenv("FLUX_URI", enclosing.uri)
    return enclosing


def jobs_of(instance: pytest_flux.FluxInstance) -> list[tuple[int, bool]]:
    """The number of tasks of each job of ours, and whether it was a success; the last job first. All have ended."""
    jobs = [job for job in instance.client.jobs.list(attrs=["all"]) if job["name"] == "pytest"]
    assert {job["state"] for job in jobs} <= {INACTIVE}
    return [(job["ntasks"], job["success"]) for job in jobs]


def test_workers_are_the_tasks_of_one_job(
    run: Run, pytester: pytest.Pytester, inside: pytest_flux.FluxInstance
) -> None:
    result = run(SUITE, "-n2", "--flux-workers", "--flux-workers-args=-N2", "--dist=each", "-s", *PLAIN)
    result.assert_outcomes(passed=16)
    seen = {line.split()[1] for line in (pytester.path / "seen").read_text().splitlines()}
    assert seen == {inside.uri, inside.uri.replace("local-0", "local-1")}
    result.stderr.fnmatch_lines_random(["[[]gw0[]] hello from 3", "[[]gw1[]] hello from 3"])
    assert jobs_of(inside)[0] == (2, True)


def test_a_worker_that_crashes_gets_a_successor(run: Run, inside: pytest_flux.FluxInstance) -> None:
    result = run(CRASH, "-n1", "--flux-workers", "-s", *PLAIN)
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(
        [
            "worker 'gw0' crashed while running *3*",
            "*- flux: output of worker gw0 (task 0) -*",
            "last words",
            "pytest-flux: the worker (pid *) was killed by signal 9 (Killed)",
        ]
    )
    assert jobs_of(inside)[0] == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--flux-workers"], "--flux-workers: how many? Add -n N*"),
        (["--flux-workers-args=-c2"], "--flux-workers-args: *with --flux-workers only"),
        pytest.param(
            ["-n1", "--flux-workers", "--flux-uri=local:///nowhere"],
            "--flux-workers: instance at local:///nowhere: *",
            marks=pytest.mark.slow,
        ),
        (["-n1", "--flux-workers", "--flux-workers-args=--quue=debug"], "--flux-workers: flux submit *quue*"),
        (["-n1", "--flux-workers", "--flux-workers-args=-c1000"], "--flux-workers: job ƒ* has ended"),
        pytest.param(
            ["--tx=popen//chdir=x", "-d", "--flux-workers"],
            "--flux-workers: --tx *: chdir= has no effect *",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_is_said(run: Run, inside: pytest_flux.FluxInstance, arguments: list[str], told: str) -> None:
    result = run("def test(): pass\n", *arguments, *PLAIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_outside_of_an_instance(run: Run) -> None:
    result = run("def test(): pass\n", "-n1", "--flux-workers", *PLAIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --flux-workers: FLUX_URI is not set: *"])


# -- several nodes


SHARED = """
import pytest, pytest_flux

shared = pytest_flux.flux_instance(size=1, shared=True)

@pytest.mark.parametrize("number", range(4))
def test(shared, number, worker_id):
    shared.kvs.put(f"test.{worker_id}", "1")
    with open(f"seen-{worker_id}", "a") as file:
        file.write(f"{shared.uri} {shared.getattr('broker.pid')}\\n")
"""


@pytest.mark.slow
def test_nodes_with_other_names_are_reached_over_the_network(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instances that workers share are shared by those of a node, and end with them."""
    with pytest_flux.start(broker="embedded", hosts="one,other") as instance:
        monkeypatch.setenv("FLUX_URI", instance.uri)
        arguments = ["-n4", "--flux-workers", "--flux-workers-args=-N2 --tasks-per-node=2", "--dist=each", *PLAIN]
        result = run(SHARED, *arguments)
        result.assert_outcomes(passed=16)
        seen = {path.name: set(path.read_text().splitlines()) for path in pytester.path.glob("seen-*")}
        assert [len(instances) for instances in seen.values()] == [1, 1, 1, 1]
        instances = set[str]().union(*seen.values())
        assert len(instances) == 2
        for shared in instances:
            uri, pid = shared.split()
            assert not os.path.exists(os.path.dirname(uri.removeprefix("local://")))
            assert not os.path.exists(f"/proc/{pid}")
        assert jobs_of(instance) == [(4, True)]


@pytest.mark.slow
def test_two_networks(run: Run, pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 in a network of its own, which one address of ours leads to."""
    name = f"pf{uuid.uuid4().hex[:6]}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add 10.199.73.1/24 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add 10.199.73.2/24 dev {name}b",
        f"ip -n {name} link set {name}b up",
    ]
    wrap = tmp_path / "wrap"
    wrap.write_text(f'#!/bin/sh\n[ "$PMI_RANK" = 0 ] && exec "$@"\nexec ip netns exec {name} "$@"\n')
    wrap.chmod(0o755)
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespace: {command}: {getattr(error, 'stderr', error)}")
        with pytest_flux.start(broker="embedded", hosts="one,other", wrap=[str(wrap)]) as instance:
            monkeypatch.setenv("FLUX_URI", instance.uri)
            source = """
                import os

                def test(worker_id):
                    with open(f"seen-{worker_id}", "w") as file:
                        file.write(os.readlink("/proc/self/ns/net"))
            """
            run(source, "-n2", "--flux-workers", "--flux-workers-args=-N2", "--dist=each", *PLAIN).assert_outcomes(
                passed=2
            )
            assert len({path.read_text() for path in pytester.path.glob("seen-*")}) == 2
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.system_flux
@pytest.mark.slow
def test_on_a_real_flux(
    run: Run, pytester: pytest.Pytester, system_flux: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.path.dirname(system_flux)}:{os.environ['PATH']}")
    with pytest_flux.start(broker="system", hosts="a,b,c,d") as instance:
        monkeypatch.setenv("FLUX_URI", instance.uri)
        result = run(CRASH.replace("range(8)", "range(100)"), "-n12", "--flux-workers", *PLAIN)
        result.assert_outcomes(passed=99, failed=1)
        result.stdout.fnmatch_lines(["pytest-flux: the worker (pid *) was killed by signal 9 (Killed)"])
        assert [success for _, success in jobs_of(instance)] == [True]


# -- ends


HANGING = """
import os, pytest, pytest_flux, signal, subprocess, time

shared = pytest_flux.flux_instance(size=1, shared=True)

def test(flux_instance, shared, worker_id):
    with open("told", "w") as fifo:
        fifo.write(f"{worker_id} {os.getpid()}\\n")
    time.sleep(1000)
"""

WAYS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["kill", *(pytest.param(way, marks=pytest.mark.soak) for way in WAYS if way != "kill")]
)
def test_nothing_is_left(tmp_path: Path, inside: pytest_flux.FluxInstance, way: str) -> None:
    token = f"PYTEST_FLUX_END_{uuid.uuid4().hex}"
    # Paths of sockets must be short.
    tmpdir = Path(f"/tmp/{token[-6:]}")
    tmpdir.mkdir()
    (tmp_path / "test_it.py").write_text(HANGING)
    os.mkfifo(tmp_path / "told")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n2",
        "--dist=each",
        "--flux-workers",
        "--flux-broker=embedded",
        *PLAIN,
    ]
    with open(tmp_path / "output", "wb") as output:
        process = subprocess.Popen(
            [*command, "-p", "no:cacheprovider", f"--basetemp={tmp_path}/base"],
            cwd=tmp_path,
            env={**os.environ, token: "1", "TMPDIR": str(tmpdir)},
            stdout=output,
            stderr=output,
        )
    try:
        wait_for_lines(tmp_path / "told", 2)
        process.send_signal(WAYS[way])
        process.wait(LIMIT)
        # execnet gives a test 5 seconds before it interrupts it.
        _, alive = psutil.wait_procs(found_by(token), LIMIT)
        assert alive == []
        inside.job(inside.client.jobs.last()[0]).wait_event("clean")
    finally:
        for left in found_by(token):
            with suppress(psutil.Error):
                left.kill()
        process.wait(LIMIT)
    assert list(tmpdir.iterdir()) == []
    tmpdir.rmdir()


def wait_for_lines(path: Path, count: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        text = b""
        while text.count(b"\n") < count:
            assert select.select([descriptor], [], [], LIMIT)[0]
            text += os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def found_by(token: str) -> list[psutil.Process]:
    """The processes that have the variable in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if token in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
