"""An interactive shell as initial program, on a terminal."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.test_terminal import Terminal
from tests.parity.instances import Engine

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

PROMPT = "ready> $"
ENVIRONMENT = {"TERM": "dumb", "INPUTRC": "/dev/null", "SHELL": shutil.which("bash") or ""}


@pytest.fixture
def terminal(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A shell at its prompt, in an instance of two."""
    for name, value in {**ENVIRONMENT, "HOME": str(tmp_path), "PATH": engine.environ()["PATH"]}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".bashrc").write_text("PS1='ready> '\nPROMPT_COMMAND=\n")
    opened = Terminal(tmp_path, engine.command("-s2", "--test-exit-timeout=2s"))
    before = opened.settings()
    try:
        opened.expect(PROMPT)
        yield opened
        assert opened.settings() == before
    finally:
        opened.close()


def run(terminal: Terminal, command: str, expected: str) -> None:
    """Type a command; it answers, and the prompt comes back."""
    terminal.type(command + "\n")
    terminal.expect(expected)
    terminal.expect(PROMPT)


def interrupt(terminal: Terminal) -> None:
    """Type ^C, and an empty line: bash itself sometimes does not show its prompt before it gets the next key."""
    terminal.type("\x03")
    terminal.expect(r"\^C")
    terminal.type("\n")
    terminal.expect(PROMPT)


def test_session_of_a_person(terminal: Terminal) -> None:
    run(terminal, "flux getattr size", r"\n2\r\n")
    # ^C at the prompt gives a new one.
    terminal.type("ech")
    terminal.expect("ech")
    interrupt(terminal)
    run(terminal, "echo still $((40 + 2))", "still 42")
    # ^C ends the program in the foreground, and nothing else.
    terminal.type("sh -c 'echo it reads; exec cat'\n")
    terminal.expect("\r\nit reads\r\n")
    terminal.type("line\n")
    terminal.expect("line\r\nline\r\n")
    interrupt(terminal)
    run(terminal, "echo code $?", "code 130")
    # Job control.
    terminal.type("sh -c 'echo it runs; exec cat'\n")
    terminal.expect("\r\nit runs\r\n")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect(PROMPT)
    run(terminal, "jobs", "Stopped")
    terminal.type("fg\n")
    terminal.expect("exec cat'\r\n")
    terminal.type("again\n")
    terminal.expect("again\r\nagain\r\n")
    interrupt(terminal)
    run(terminal, "flux exec -r all flux getattr rank | sort", "0\r\n1\r\n")
    terminal.type("exit 5\n")
    terminal.expect(r"rc2\.0: \S*bash Exited \(rc=5\)")
    assert terminal.wait() == 5


def test_end_of_input_is_the_end(terminal: Terminal) -> None:
    run(terminal, "true", "true")
    terminal.type("\x04")
    terminal.expect("exit")
    assert terminal.wait() == 0


def test_terminal_is_restored_when_flux_start_is_terminated(terminal: Terminal) -> None:
    terminal.type("stty raw -echo; echo changed; cat\n")
    terminal.expect("changed\r?\n")
    os.kill(terminal.pid, signal.SIGTERM)
    # In order: 128 + 15.
    assert terminal.wait() == 143
