"""Runs pytest, as users do, on the embedded engine."""

from __future__ import annotations

from typing import Any

import pytest

Run = Any


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Write a test module and run it: ``run(source, *arguments)``, in a process of its own."""

    def run_module(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        return pytester.runpytest_subprocess("--flux-broker=embedded", "-p", "no:cacheprovider", *arguments)

    return run_module
