"""Instances that begin with what others left, and dumps of those whose tests fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher.sessions import DEADLINE
from tests.plugin.conftest import Run

RECORDED = Path(__file__).parent.parent / "conformance" / "data" / "flux-0.88.0" / "dump.tar"

LOOK = """
    jobs = flux_instance.client.rpc("job-list.list", {
        "max_entries": 0, "attrs": ["all"], "since": 0.0, "constraint": {"and": []}}, streaming=True)
    assert len([job for answer in jobs for job in answer["jobs"]]) == 7
    assert flux_instance.client.rpc("resource.status").get()["online"] == ""
"""


def test_by_marker(run: Run) -> None:
    result = run(
        f"""
import pytest

@pytest.mark.flux(recovery={str(RECORDED)!r})
def test(flux_instance):
{LOOK}
"""
    )
    result.assert_outcomes(passed=1)


def test_by_option(run: Run) -> None:
    result = run(f"def test(flux_instance):\n{LOOK}", f"--flux-recovery={RECORDED}")
    result.assert_outcomes(passed=1)


def test_by_fixture(run: Run) -> None:
    result = run(
        f"""
import pytest_flux

left = pytest_flux.flux_instance(recovery={str(RECORDED)!r}, scope="module")

def test(left):
    flux_instance = left
{LOOK}
"""
    )
    result.assert_outcomes(passed=1)


def test_what_is_not_there(run: Run) -> None:
    result = run("def test(flux_instance): pass", "--flux-recovery=/nonexist")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*flux-start: /nonexist: No such file or directory*"])


FAILING = """
def test_passes(flux_instance):
    pass

def test_fails(flux_instance):
    job = flux_instance.submit(["sh", "-c", "echo from the job; exit 3"])
    assert job.result().succeeded
"""


@pytest.mark.parametrize("which", ["failed", "all"])
def test_the_printed_command_opens_the_instance(run: Run, which: str, pytester: pytest.Pytester) -> None:
    result = run(FAILING, f"--flux-dump={which}", "-rP")
    result.assert_outcomes(passed=1, failed=1)
    found = re.findall(r"^flux-start (.*)$", result.stdout.str(), re.MULTILINE)
    assert len(found) == (1 if which == "failed" else 2)
    assert len(list(pytester.path.glob(".flux-dump/*"))) == len(found)
    command = next(line for line in found if "test_fails" in line)
    start = f"{sys.executable} -m pytest_flux.cli.flux_start --broker=embedded"
    done = subprocess.run(
        ["sh", "-c", f"{start} {command}"],
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r" sh +F +1 +1 ", done.stdout)


def test_an_instance_that_cannot_be_dumped(run: Run) -> None:
    result = run(
        """
        import os, signal

        def test(flux_instance):
            os.kill(flux_instance.brokers[0].pid, signal.SIGKILL)
            flux_instance.brokers[0].wait(10)
            assert False
        """,
        "--flux-dump=failed",
    )
    assert "none: the instance does not run" in result.stdout.str()
