"""`flux top` on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import sys
import time
from pathlib import Path

from tests.cli.jobs.commands import WAIT, Commands
from tests.cli.jobs.conftest import flux, instance  # noqa: F401, fixtures


def _run_on_terminal(flux: Commands, words: list[str], shown: bytes, keys: bytes) -> int:  # noqa: F811
    """Run a command on a terminal; once it shows some text, press keys. Return the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(flux.directory)
        os.execvpe(sys.executable, [*flux.program, *words], {**flux.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    output, deadline, pressed = b"", time.monotonic() + WAIT, False
    try:
        while time.monotonic() < deadline:
            output += os.read(terminal, 1 << 16)
            if keys and shown in output and not pressed:
                os.write(terminal, keys)
                pressed = True
    except OSError:
        pass  # the command has ended
    finally:
        os.close(terminal)
    assert shown in output
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_top(flux: Commands, tmp_path: Path) -> None:  # noqa: F811
    job = flux.id("submit", "-n1", "--job-name=visible", "sleep", "inf")
    flux("job", "wait-event", job, "start")
    assert _run_on_terminal(flux, ["top"], b"visible", b"jkdhlq") == 0
    dump = tmp_path / "dump"
    assert _run_on_terminal(flux, ["top", f"--test-exit-dump={dump}"], b"visible", b"") == 0
    lines = dump.read_text().splitlines()
    assert lines[0] == "0 pending"
    assert "1 running" in lines
    assert lines[-1].startswith(f"{job} ")
    assert lines[-1].endswith(" visible")
    flux("cancel", job)
    flux("job", "wait-event", job, "clean")


def test_refusals(flux: Commands) -> None:  # noqa: F811
    assert flux("top").shown == (1, "", "flux-top: stdin is not a terminal\n")
    assert _run_on_terminal(flux, ["top", "-q", "nosuch"], b"flux-top: queue nosuch not configured", b"") == 1
