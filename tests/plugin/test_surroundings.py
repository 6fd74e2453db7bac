"""Tests in places that are not kind to a plugin."""

from __future__ import annotations

import pytest

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
