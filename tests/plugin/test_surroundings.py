"""Tests in places that are not kind to a plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

TEST = """
def test_it(flux_instance, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heapq.py").write_text("raise SystemExit('trapped')")
    assert flux_instance.run(["flux", "exec", "flux", "getattr", "size"]).stdout == "1\\n"
"""


def test_modules_of_the_tests_are_none_of_the_instances(pytester: pytest.Pytester) -> None:
    # Which pytest puts first of all places to import from. The names are of modules that it has long imported.
    tests = pytester.mkdir("tests")
    (tests / "test_it.py").write_text(TEST)
    for name in ("json", "selectors", "signal", "struct"):
        (tests / f"{name}.py").write_text("raise SystemExit('trapped')")
    pytester.runpytest_subprocess("--flux-broker=embedded", "-p", "no:cacheprovider").assert_outcomes(passed=1)


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are Unicode there")
@pytest.mark.parametrize("personality", ["full", "system"])
def test_temporary_directories_of_any_bytes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, personality: str
) -> None:
    directory = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(directory)
    monkeypatch.setitem(os.environb, b"TMPDIR", directory)
    run("def test(flux_instance): pass\n", f"--flux-personality={personality}").assert_outcomes(passed=1)
    assert os.listdir(directory) == []


def test_working_directory_that_is_gone(run: Run) -> None:
    result = run(
        """
        import os

        def test(tmp_path, monkeypatch, request):
            (tmp_path / "gone").mkdir()
            monkeypatch.chdir(tmp_path / "gone")
            os.rmdir(tmp_path / "gone")
            assert request.getfixturevalue("flux_instance").getattr("size") == "1"
        """
    )
    result.assert_outcomes(passed=1)


def test_threads_and_forks_have_connections_of_their_own(run: Run) -> None:
    result = run(
        """
        import os
        from concurrent.futures import ThreadPoolExecutor

        def test_threads(flux_instance):
            flux_instance.kvs.put("key", "value")
            with ThreadPoolExecutor(8) as threads:
                answers = list(threads.map(lambda number: flux_instance.kvs.get("key"), range(100)))
            assert answers == [b"value"] * 100

        def test_forks(flux_instance):
            flux_instance.kvs.put("parent", "1")
            child = os.fork()
            if child == 0:
                try:
                    flux_instance.kvs.put("child", "1")
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert flux_instance.kvs.exists("child")
        """,
        "-Wignore::DeprecationWarning",
    )
    result.assert_outcomes(passed=2)


def test_instances_inside_of_instances(pytester: pytest.Pytester) -> None:
    """A session within the process of another: each has its own."""
    pytester.makeconftest('pytest_plugins = ["pytester"]')
    pytester.makepyfile(
        '''
        def test_outer(flux_instance, pytester):
            pytester.makepyfile("""
                def test_inner(flux_instance, flux_instance_factory):
                    assert flux_instance.uri != flux_instance_factory(size=2).uri
            """)
            pytester.runpytest_inprocess("--flux-broker=embedded").assert_outcomes(passed=1)
            assert flux_instance.getattr("size") == "1"

        def test_after(flux_instance):
            assert flux_instance.getattr("size") == "1"
        '''
    )
    pytester.runpytest_subprocess("--flux-broker=embedded").assert_outcomes(passed=2)


def test_unittest(run: Run) -> None:
    result = run(
        """
        import unittest, pytest

        @pytest.mark.flux(size=2)
        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def instance(self, flux_instance):
                self.flux = flux_instance

            def test_size(self):
                self.assertEqual(self.flux.getattr("size"), "2")
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as on Linux")
def test_file_systems_that_run_no_programs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR mounted with noexec."""
    place = Path(f"/tmp/{os.urandom(3).hex()}")
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no right to mount: {done.stderr.decode()}")
        try:
            monkeypatch.setenv("TMPDIR", str(place))
            run(TEST).assert_outcomes(passed=1)
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        place.rmdir()
