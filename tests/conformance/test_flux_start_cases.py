"""`flux-start` against what real `flux start` 0.88 was recorded doing (flux-start-cases.json)."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.differences import DIFFERENCES

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("flux-start-cases.json").read_text())

# What varies from run to run, and what stands for it in the recordings. A log line begins with a time stamp there was
# no need to record.
_NORMAL = (
    (re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{6} \S+ \d{4} ", re.MULTILINE), ""),
    (re.compile(r"\(pid \d+\)"), "(pid <PID>)"),
    (re.compile(r"(rundir=)/\S*/flux-\w+"), r"\1<RUNDIR>"),
    (re.compile(r"(\(rc=\d+\)) \d+\.\d+s"), r"\1 <TIME>"),
    (re.compile(r"(^|\s)/\S*/flux-broker\b"), r"\1<BROKER>"),
    (re.compile(r"-c\S*(/etc/flux/system/conf\.d)"), r"-c<PREFIX>\1"),
)


def normalize(text: str) -> str:
    for pattern, replacement in _NORMAL:
        text = pattern.sub(replacement, text)
    return text


def _is_end(line: str) -> bool:
    return "(pid <PID>)" in line


def in_any_order(text: str) -> list[str]:
    """Lines, those about ends of brokers that follow each other sorted: several may end at one moment."""
    result: list[str] = []
    for is_end, lines in itertools.groupby(text.splitlines(), key=_is_end):
        block = list(lines)
        result += sorted(block) if is_end else block
    return result


def run_case(case: dict[str, Any], engine: str, directory: Path) -> dict[str, Any]:
    if case["setup"]:
        subprocess.run(["/bin/bash", "-c", case["setup"]], cwd=directory, check=True)
    environ = {**os.environ, "SHELL": "/bin/bash", **case["env"]}
    # Some cases look for the rundir where it was when they were recorded.
    environ.pop("TMPDIR", None)
    # A case that brings its own broker shows what the launcher does with any.
    choice = "auto" if "FLUX_EXEC_PATH_PREPEND" in case["env"] else engine
    command = [sys.executable, "-m", "pytest_flux.cli.flux_start", f"--broker={choice}", *case["args"], *case["prog"]]
    done = subprocess.run(
        command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    after = sorted(os.listdir(directory))
    return {
        "rc": done.returncode,
        "stdout": normalize(done.stdout),
        "stderr": normalize(done.stderr),
        "files": {name: (directory / name).read_text() for name in case["files"] if name in after},
        "after": after,
    }


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case_is_as_recorded(case: dict[str, Any], engine: str, tmp_path: Path) -> None:
    expected = {key: case[key] for key in ("rc", "stdout", "stderr", "files", "after")}
    if case["id"] in DIFFERENCES:
        expected.update(DIFFERENCES[case["id"]].instead)
    result = run_case(case, engine, tmp_path)
    for outcome in (expected, result):
        outcome["stderr"] = in_any_order(outcome["stderr"])
    assert result == expected


def test_differences_are_few_and_about_recorded_cases() -> None:
    assert len(DIFFERENCES) <= 5
    assert set(DIFFERENCES) <= {case["id"] for case in CASES}
