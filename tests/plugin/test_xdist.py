"""Several workers: instances of their own, or one for all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

pytest.importorskip("xdist", reason="pytest-xdist is not installed")

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


@pytest.mark.parametrize("dist", ["load", "worksteal", "loadfile"])
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
    result.assert_outcomes(passed=8)
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
    result = run(
        """
        import os, pytest, signal

        @pytest.mark.parametrize("number", range(200))
        def test(flux, number):
            flux.kvs.put(f"test.{number}", str(number))
            assert flux.kvs.get(f"test.{number}") == str(number).encode()
            with open(f"pid{number}", "w") as file:
                file.write(flux.getattr("broker.pid"))
            if number in (17, 58, 111):
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        "-n8",
        "--max-worker-restart=20",
    )
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 197
    assert outcomes["failed"] == 3
    (pid,) = {path.read_text() for path in pytester.path.glob("pid*")}
    assert not os.path.exists(f"/proc/{pid}")
    assert starts(pytester.path) == [1]
