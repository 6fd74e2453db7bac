"""README.rst is true: its code runs, and its commands print what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.rst"

_VARIES = (
    (re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{6} \S+ \d{4}", re.MULTILINE), "TIME"),
    (re.compile(r"pid \d+"), "pid PID"),
    (re.compile(r"\d+\.\d+s$", re.MULTILINE), "SECONDS"),
    (re.compile(r"/tmp/flux-\w+"), "/tmp/flux-XXXXXX"),
)


def _blocks(text: str) -> list[str]:
    """Literal and code blocks, unindented."""
    found = re.findall(r"(?:::|code-block:: \w+)\n\n((?:(?: {4,}.*)?\n)+)", text)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip("\n") + "\n" for block in found]


def _sessions() -> list[tuple[str, str]]:
    """Commands after a `$`, and what follows each."""
    sessions: list[tuple[str, str]] = []
    for block in _blocks(README.read_text()):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE):
            sessions.append((command, output))
    return sessions


def _normalize(text: str) -> str:
    for pattern, replacement in _VARIES:
        text = pattern.sub(replacement, text)
    return text


@pytest.mark.parametrize(("command", "output"), _sessions())
def test_command_prints_what_it_says(command: str, output: str, tmp_path: Path) -> None:
    program = command.split(maxsplit=1)[0]
    path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    if shutil.which(program, path=path) is None:
        pytest.skip(f"{program} is not installed")
    environ = {**os.environ, "PATH": path, "SHELL": "/bin/bash"}
    environ.pop("TMPDIR", None)
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert _normalize(done.stdout) == _normalize(output)


def test_first_screen_shows_the_fixture_and_it_works(pytester: pytest.Pytester) -> None:
    first_screen = "\n".join(README.read_text().splitlines()[:24])
    (code,) = (block for block in _blocks(first_screen + "\n\n") if "def test" in block)
    assert "flux_instance" in code
    pytester.makepyfile(code)
    pytester.runpytest_subprocess("--flux-broker=embedded").assert_outcomes(passed=code.count("def test"))
