"""Several workers: instances of their own, or one for all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

xdist = pytest.importorskip("xdist", reason="pytest-xdist is not installed")

CONFTEST = """
import pytest, pytest_flux

flux = pytest_flux.flux_instance(size=2, shared=True)

def pytest_flux_instance_stopped(instance): pass
"""


def starts(base: Path) -> list[int]:
    """How often each shared instance of a run was started; what is written down of it stays with pytest's files."""
    return [int(path.read_text()) for path in base.rglob("flux-shared/*.starts")]


def test_workers_have_their_own(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test(flux_instance, number):
            open(f"uri{number}", "w").write(flux_instance.uri)
        """,
        "-n2",
        "--flux-scope=session",
    )
    result.assert_outcomes(passed=4)
    assert len({path.read_text() for path in pytester.path.glob("uri*")}) in (1, 2)


RARE = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("loadfile", "loadgroup", "loadscope", "each")]


# pytest-xdist before 3.2 does not know it.
WORKSTEAL = [] if xdist.__version__.startswith("2.") else ["worksteal"]


@pytest.mark.parametrize("dist", ["load", *WORKSTEAL, *RARE])
def test_one_for_all(run: Run, pytester: pytest.Pytester, dist: str) -> None:
    pytester.makeconftest(CONFTEST)
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test(flux, number):
            flux.kvs.put(f"test.{number}", "1")
            open(f"uri{number}", "w").write(flux.uri + " " + flux.getattr("broker.pid"))
        """,
        "-n3",
        f"--dist={dist}",
    )
    result.assert_outcomes(passed=8 * (3 if dist == "each" else 1))
    (instance,) = {path.read_text() for path in pytester.path.glob("uri*")}
    uri, pid = instance.split()
    assert not os.path.exists(os.path.dirname(uri.removeprefix("local://")))
    assert not os.path.exists(f"/proc/{pid}")
    assert starts(pytester.path) == [1]


def test_without_workers_shared_is_a_session(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    run("def test_a(flux): flux.a = 1\ndef test_b(flux): assert flux.a\n").assert_outcomes(passed=2)


def test_failures_of_workers_have_logs_and_culprits(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        def test_fails(flux_instance):
            assert False

        def test_leaks(flux_instance):
            flux_instance.kvs.put("left", "1")
        """,
        "-n1",
        "--flux-scope=module",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*flux: log of rank 0 (flux_instance)*"])
    result.stdout.fnmatch_lines(["test_it.py::test_leaks: flux_instance: KVS key left"])


def test_late_errors_of_workers(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.flux(attrs={"broker.rc3_path": "exit 7"})
        def test_culprit(flux_instance): pass

        def test_innocent(flux_instance): pass
        """,
        "-n1",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_culprit*"])


@pytest.mark.slow
def test_workers_that_are_killed(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    culprits = sorted(random.sample(range(200), 5))
    source = """
        import os, pytest, signal, threading

        @pytest.mark.parametrize("number", range(200))
        def test(flux, number):
            if number in CULPRITS:
                # At any moment of what follows, or after it.
                threading.Timer(number / 5000, os.kill, (os.getpid(), signal.SIGKILL)).start()
            flux.kvs.put(f"test.{number}", str(number))
            assert flux.kvs.get(f"test.{number}") == str(number).encode()
            with open(f"pid{number}", "w") as file:
                file.write(flux.getattr("broker.pid"))
            if number in CULPRITS:
                threading.Event().wait()
    """
    result = run(source.replace("CULPRITS", str(culprits)), "-n8", "--max-worker-restart=20")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (195, 5), f"killed in {culprits}"
    for culprit in culprits:
        result.stdout.fnmatch_lines([f"FAILED test_it.py::test[[]{culprit}]*"])
    (pid,) = {path.read_text() for path in pytester.path.glob("pid*")} - {""}
    assert not os.path.exists(f"/proc/{pid}")
    assert starts(pytester.path) == [1]


@pytest.mark.slow
def test_runs_that_are_started_again_when_files_change(pytester: pytest.Pytester) -> None:
    """``--looponfail``: what fails is run again in a process of its own, with an instance of its own, until ^C."""
    source = 'def test(flux_instance): open("uris", "a").write(flux_instance.uri + "\\n"); assert RESULT\n'
    module = pytester.makepyfile(test_it=source.replace("RESULT", "False"))
    arguments = ["--looponfail", "--flux-broker=embedded", "--flux-scope=session", "-p", "no:cacheprovider"]
    process = pytester.popen([sys.executable, "-m", "pytest", *arguments], stdin=subprocess.DEVNULL)
    try:
        uris = pytester.path / "uris"
        wait_until(lambda: uris.exists() and uris.read_text().count("\n") == 1)
        # Not seen if it comes before the watching has begun, or with the same size in the same second: hence another.
        for attempt in range(100):
            module.write_text(source.replace("RESULT", f"True  # {'!' * attempt}"))
            if wait_until(lambda: uris.read_text().count("\n") >= 2, seconds=2):
                break
        process.send_signal(signal.SIGINT)
    finally:
        process.communicate(timeout=30)
    seen = uris.read_text().split()
    assert len(set(seen)) == len(seen) >= 2


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Look again and again: files tell nobody."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()
