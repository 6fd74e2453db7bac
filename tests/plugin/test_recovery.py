"""Instances that begin with what others left, and dumps of those whose tests fail."""

from __future__ import annotations

import os
import re
import shutil
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


def commands(result: pytest.RunResult) -> list[str]:
    """The commands that open dumps again, without the program."""
    return re.findall(r"flux-start\S* (--test-size=1 --recovery=.*)$", result.stdout.str(), re.MULTILINE)


def call(command: str) -> subprocess.CompletedProcess[str]:
    """Do as a report says."""
    start = f"{sys.executable} -m pytest_flux.cli.flux_start --broker=embedded"
    return subprocess.run(
        ["sh", "-c", f"{start} {command}"],
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def look(command: str, key: str) -> str:
    """A key in the dump that a command opens."""
    done = call(command.replace("flux jobs -a", f"flux kvs get {key}"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("which", ["failed", "all"])
def test_the_printed_command_opens_the_instance(run: Run, which: str, pytester: pytest.Pytester) -> None:
    result = run(FAILING, f"--flux-dump={which}")
    result.assert_outcomes(passed=1, failed=1)
    found = commands(result)
    assert len(found) == (1 if which == "failed" else 2)
    assert len(list(pytester.path.glob(".flux-dump/*"))) == len(found)
    done = call(next(line for line in found if "test_fails" in line))
    assert done.returncode == 0, done.stderr
    assert re.search(r" sh +F +1 +1 ", done.stdout)


def test_the_program_is_the_one_of_this_python(run: Run) -> None:
    result = run("def test(flux_instance): assert 0", "--flux-dump=failed")
    program = re.findall(r"^(\S*flux-start) --test-size", result.stdout.str(), re.MULTILINE)[0]
    found = shutil.which(program)
    assert found is not None
    assert Path(found).samefile(Path(sys.executable).parent / "flux-start")


def test_dumps_of_several_instances(run: Run, tmp_path: Path) -> None:
    result = run(
        """
        import pytest

        def test(flux_instance_factory):
            for name in ("one", "two"):
                flux_instance_factory().kvs.put("name", name)
            assert 0

        @pytest.mark.parametrize("name", ["x y", "x/y", "$(touch pwned)`'\\"", "n" * 1000])
        def test_names(flux_instance, name):
            flux_instance.kvs.put("name", name[:9])
            assert 0
        """,
        "--flux-dump=failed",
        f"--flux-dump-dir={tmp_path}/a b/c",
    )
    result.assert_outcomes(failed=5)
    found = commands(result)
    assert [look(command, "name") for command in found] == ["one", "two", "x y", "x/y", "$(touch p", "n" * 9]
    assert len(list((tmp_path / "a b/c").iterdir())) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"a b"}


WHEN = """
import pytest

@pytest.fixture
def before(flux_instance):
    flux_instance.kvs.put("when", "setup")
    raise RuntimeError

@pytest.fixture
def after(flux_instance):
    yield
    flux_instance.kvs.put("when", "teardown")
    raise RuntimeError

def test_setup(before): pass

def test_teardown(after): pass

def test_passes(flux_instance): pass

@pytest.mark.xfail(strict=True)
def test_expected(flux_instance): assert 0
"""


def test_errors_in_fixtures(run: Run, pytester: pytest.Pytester) -> None:
    result = run(WHEN, "--flux-dump=failed")
    result.assert_outcomes(passed=2, errors=2, xfailed=1)
    assert sorted(look(command, "when") for command in commands(result)) == ["setup", "teardown"]
    assert len(list(pytester.path.glob(".flux-dump/*"))) == 2


KILLED = """
import time

import pytest

@pytest.mark.parametrize("is_awaited", [True, False])
def test(flux_instance, is_awaited):
    assert flux_instance.submit(["true"]).result().succeeded
    flux_instance.kvs.put("name", "kept", sync=True)
    flux_instance.brokers[0].kill()
    if is_awaited:
        while not flux_instance.dead_brokers():
            time.sleep(0.01)
    assert 0
"""


def test_an_instance_whose_rank_0_is_dead(run: Run) -> None:
    result = run(KILLED, "--flux-dump=failed")
    assert result.stdout.str().count("rank 0 does not run: this is what it has left behind") == 2
    for command in commands(result):
        assert look(command, "name") == "kept"
        assert re.search(r" true +CD +1 +1 ", call(command).stdout)


def test_an_instance_that_cannot_be_dumped(run: Run) -> None:
    result = run(
        """
        def test(flux_instance):
            flux_instance.stop()
            assert 0
        """,
        "--flux-dump=failed",
    )
    assert "none: rank 0 does not run, and has left nothing behind" in result.stdout.str()


@pytest.mark.slow
def test_an_instance_that_does_not_answer(run: Run) -> None:
    """Suspended, it keeps nobody waiting for long."""
    result = run(
        """
        def test(flux_instance):
            flux_instance.brokers[0].stop()
            assert 0
        """,
        "--flux-dump=failed",
    )
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["none: rank 0 does not answer: *"])


def test_a_place_that_cannot_be(run: Run) -> None:
    result = run("def test(flux_instance): assert 0", "--flux-dump=failed", "--flux-dump-dir=/dev/null/x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["none: *Not a directory: '/dev/null/x'"])


def test_wider_scopes_and_workers(run: Run) -> None:
    pytest.importorskip("xdist")
    result = run(
        """
        def test_one(flux_instance):
            flux_instance.kvs.put("name", "one")

        def test_two(flux_instance):
            flux_instance.kvs.put("name", "two")
            assert 0
        """,
        "--flux-dump=all",
        "--flux-scope=module",
        "-n2",
        "--dist=loadfile",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert sorted(look(command, "name") for command in commands(result)) == ["one", "two"]
    result.stdout.fnmatch_lines(["*flux: dumps*", "*::test_one:"])
