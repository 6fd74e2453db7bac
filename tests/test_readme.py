"""README.rst is true: its code runs, and its commands print what it says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LEFT_OUT

ROOT = Path(__file__).parent.parent
README = ROOT / "README.rst"

_VARIES = (
    (re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{6} \S+ \d{4}", re.MULTILINE), "TIME"),
    (re.compile(r"pid \d+"), "pid PID"),
    (re.compile(r"\d+\.\d+s$", re.MULTILINE), "SECONDS"),
    (re.compile(r"/tmp/flux-\w+"), "/tmp/flux-XXXXXX"),
    # Of sessions of pytest: their header, and whatever is as long as something in it.
    (re.compile(r"^platform .*", re.MULTILINE), "PLATFORM"),
    (re.compile(r"^(flux: embedded broker), .*", re.MULTILINE), r"\1"),
    (re.compile(r"^(plugins|rootdir|cachedir): .*\n", re.MULTILINE), ""),
    (re.compile(r"\d+\.\d+ms$", re.MULTILINE), "MILLISECONDS"),
    (re.compile(r" in \d+\.\d+s\b"), ""),
    (re.compile(r"ƒ\w+"), "JOBID"),
    # What is not said on a laptop.
    (re.compile(r"broker='embedded'"), "size=1"),
    (re.compile(rf"\b(?:{re.escape(socket.gethostname())}|laptop)\b"), "HOST"),
    (re.compile(r"([=_-])\1{3,}"), r"\1\1\1"),
)


def _blocks(text: str) -> list[str]:
    """Literal and code blocks, unindented."""
    found = re.findall(r"(?:::|code-block:: \w+)\n\n((?:(?: {4,}.*)?\n)+)", text)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip("\n") + "\n" for block in found]


def _sessions() -> list[tuple[str, str]]:
    """Commands after a `$`, and what follows each."""
    sessions: list[tuple[str, str]] = []
    for block in _blocks(README.read_text(encoding="utf-8")):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE):
            sessions.append((command, output))
    return sessions


def _normalize(text: str) -> str:
    for pattern, replacement in _VARIES:
        text = pattern.sub(replacement, text)
    return text


def _as_on_a_laptop() -> str:
    """Options for pytest: no plugins that tell of themselves, and no real Flux."""
    return " ".join(["--flux-broker=embedded", *(f"-p no:{name}" for name in LEFT_OUT)])


@pytest.mark.parametrize(("command", "output"), _sessions())
def test_command_prints_what_it_says(command: str, output: str, tmp_path: Path) -> None:
    program = command.split(maxsplit=1)[0]
    path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    if shutil.which(program, path=path) is None:
        pytest.skip(f"{program} is not installed")
    environ = {**os.environ, "PATH": path, "SHELL": "/bin/bash", "PYTEST_ADDOPTS": _as_on_a_laptop()}
    # With the last two pytest tells more.
    for name in ("TMPDIR", "CI", "BUILD_NUMBER"):
        environ.pop(name, None)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
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
    first_screen = "\n".join(README.read_text(encoding="utf-8").splitlines()[:24])
    (code,) = (block for block in _blocks(first_screen + "\n\n") if "def test" in block)
    assert "flux_instance" in code
    pytester.makepyfile(code)
    pytester.runpytest_subprocess("--flux-broker=embedded").assert_outcomes(passed=code.count("def test"))
