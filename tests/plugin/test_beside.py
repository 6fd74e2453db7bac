"""Beside other plugins, and in odd surroundings."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

SOURCE = """
import pytest

def test_one(flux_instance):
    assert flux_instance.client.size == 1

@pytest.mark.flux(size=[1, 2])
def test_two(flux_instance):
    assert flux_instance.client.size == flux_instance.size
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("", ()),
        ("", ("--import-mode=importlib",)),
        ("", ("-p", "no:terminal")),
        ("pytest_timeout", ("-p", "timeout", "--timeout=60")),
        ("pytest_randomly", ("-p", "randomly", "--randomly-seed=7")),
        ("pytest_cov", ("-p", "pytest_cov", "--cov=test_it", "--cov-fail-under=0")),
        ("xdist", ("-n2", "--dist=worksteal")),
    ],
)
def test_plain_runs(run: Run, module: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    if module == "pytest_cov":
        # Two measurements of one process, that of these tests and that of the inner run, do not go together.
        monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
        monkeypatch.delenv("COVERAGE_FILE", raising=False)
    result = run(SOURCE, *arguments)
    assert result.ret == 0


def test_coroutines(run: Run) -> None:
    pytest.importorskip("pytest_asyncio")
    result = run(
        """
        import asyncio, pytest

        @pytest.mark.asyncio
        async def test(flux_instance):
            await asyncio.sleep(0)
            process = await asyncio.create_subprocess_exec("flux", "getattr", "size", env=flux_instance.env)
            assert await process.wait() == 0
        """,
        "-p",
        "asyncio",
    )
    result.assert_outcomes(passed=1)


def test_reruns_get_instances_of_their_own(run: Run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_rerunfailures")
    result = run(
        """
        import os

        def test(flux_instance):
            with open("uris", "a") as file:
                file.write(flux_instance.uri + "\\n")
            assert len(open("uris").readlines()) == 3
        """,
        "-p",
        "rerunfailures",
        "--reruns=2",
    )
    assert result.parseoutcomes()["passed"] == 1
    assert len(set((pytester.path / "uris").read_text().split())) == 3


def test_deep_directories(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path
    while len(str(deep)) < 200:
        deep = deep / "deeper-and-deeper"
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    result = run(SOURCE, f"--basetemp={deep}/base")
    result.assert_outcomes(passed=3)
    assert not [name for name in os.listdir(deep) if name.startswith("flux-")]


def test_runs_in_a_process_that_lives_on(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SOURCE)
    script = pytester.makepyfile(
        runner="""
        import pytest
        for _ in range(2):
            assert pytest.main(["--flux-broker=embedded", "-p", "no:cacheprovider", "test_it.py"]) == 0
        """
    )
    assert pytester.runpython(script).ret == 0
