"""Sessions on a terminal: who gets its keys, and how it is left."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launcher.sessions import DEADLINE, PROMPT

FLUX_START = [sys.executable, "-m", "pytest_flux.cli.flux_start"]


class Terminal:
    """A program on a pseudo-terminal of its own, which it is the session leader of."""

    def __init__(self, directory: Path, command: list[str]) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(directory)
                os.environ["FLUX_EXEC_PATH_PREPEND"] = str(directory)
                os.execvp(command[0], command)
            finally:
                os._exit(127)
        self.output = b""
        self._status: int | None = None

    def expect(self, pattern: str, limit: float = DEADLINE) -> re.Match[bytes]:
        """Read until the pattern appears after what was expected before."""
        deadline = time.monotonic() + limit
        while True:
            match = re.search(pattern.encode(), self.output)
            if match:
                self.output = self.output[match.end() :]
                return match
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.output!r}"
            try:
                self.output += os.read(self._master, 65536)
            except OSError:
                raise AssertionError(f"the program ended without {pattern!r} in {self.output!r}") from None

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self._master))

    def wait(self) -> int:
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self._status)

    def close(self) -> None:
        # Hangs up on what a failed test has left.
        os.close(self._master)
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def only_child(pid: int) -> int:
    (child,) = psutil.Process(pid).children()
    return child.pid


class OpenTerminals(list[Terminal]):
    def __call__(self, directory: Path, broker: str, *options: str, shell: bool = False) -> Terminal:
        script = directory / "flux-broker"
        script.write_text(broker)
        script.chmod(0o755)
        command = [*FLUX_START, *options]
        # An interactive shell gives each of its jobs a process group, and the terminal to one of them at a time.
        self.append(Terminal(directory, ["/bin/sh", "-i"] if shell else command))
        return self[-1]


@pytest.fixture
def on_terminal() -> Iterator[OpenTerminals]:
    terminals = OpenTerminals()
    yield terminals
    for terminal in terminals:
        terminal.close()


def test_interrupt_key_is_not_passed_on_to_who_has_got_it(on_terminal: OpenTerminals, tmp_path: Path) -> None:
    broker = (
        "#!/bin/sh\nmkfifo fifo; trap 'echo got INT; echo > fifo' INT; trap 'echo got TERM; exit 3' TERM\n"
        "echo ready; while :; do read x <> fifo; done\n"
    )
    terminal = on_terminal(tmp_path, broker, "-s1")
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("got INT")
    # Had the launcher passed it on, it would come before the next one. That one ends the broker.
    os.kill(only_child(only_child(terminal.pid)), signal.SIGTERM)
    terminal.expect("got TERM")
    assert b"INT" not in terminal.output
    terminal.expect("exited with rc=3")
    terminal.wait()


def test_settings_are_restored(on_terminal: OpenTerminals, tmp_path: Path) -> None:
    broker = "#!/bin/sh\necho ready; read x; stty raw -echo; echo raw; read x; kill -9 $$\n"
    terminal = on_terminal(tmp_path, broker, "-s1")
    terminal.expect("ready")
    before = terminal.settings()
    terminal.type("\n")
    terminal.expect("raw")
    assert terminal.settings() != before
    terminal.type("\n")
    terminal.expect("Killed")
    terminal.wait()
    assert terminal.settings() == before


# What an interactive shell does as initial program: it leads a group of its own, and takes the terminal.
TAKE_TERMINAL = """#!/usr/bin/env python3
import os, signal, sys, termios, tty
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    tty.setraw(0)
    os.write(1, b"taken\\n")
    os.read(0, 1)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("victim", ["front", "broker", "nobody"])
def test_terminal_is_taken_back(on_terminal: OpenTerminals, tmp_path: Path, victim: str) -> None:
    terminal = on_terminal(tmp_path, TAKE_TERMINAL, shell=True)
    terminal.type("stty -g; echo; echo done $((1+1))\n")
    terminal.expect("done 2")
    before = terminal.settings()
    # The shell waits for its job, so it must not be told by us that the job has ended.
    terminal.type(f"{' '.join(FLUX_START)} -s1; echo code $?\n")
    terminal.expect("taken")
    assert terminal.settings() != before
    front = only_child(terminal.pid)
    broker = only_child(only_child(front))
    program = psutil.Process(only_child(broker))
    if victim == "nobody":
        terminal.type("x")
    else:
        os.kill(front if victim == "front" else broker, signal.SIGKILL)
    terminal.expect("code [0-9]+")
    # When the front is killed the shell goes on at once, while the program may still read what is typed.
    program.wait(PROMPT)
    terminal.type("echo $((6*7))\n")
    terminal.expect("42", PROMPT)
    if victim != "front":
        # A shell restores the settings itself after a job that a signal has ended; these are ours.
        assert terminal.settings() == before
    terminal.type("exit\n")
    terminal.wait()


def test_session_stops_and_continues_with_its_group(on_terminal: OpenTerminals, tmp_path: Path) -> None:
    broker = "#!/bin/sh\necho ready; read x; echo got $x\n"
    terminal = on_terminal(tmp_path, broker, shell=True)
    terminal.type(f"{' '.join(FLUX_START)} -s1; echo code $?\n")
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("Stopped|suspended")
    # The shell has noticed that the front has stopped. The broker, a bit later, may still take what is typed.
    stopped = psutil.Process(only_child(only_child(only_child(terminal.pid))))
    deadline = time.monotonic() + DEADLINE
    while stopped.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
    terminal.type("fg\n")
    terminal.type("keys\n")
    terminal.expect("got keys")
    terminal.type("exit\n")
    terminal.wait()


def test_terminal_of_somebody_else_is_left_alone(on_terminal: OpenTerminals, tmp_path: Path) -> None:
    broker = "#!/bin/sh\nmkfifo fifo; echo ready; read x < fifo\n"
    terminal = on_terminal(tmp_path, broker, shell=True)
    terminal.type(f"{' '.join(FLUX_START)} -s1 &\n")
    terminal.expect("ready")
    terminal.type("stty -echo; echo now $((1+1))\n")
    terminal.expect("now 2")
    changed = terminal.settings()
    terminal.type("echo > fifo; wait; echo ended $((1+1))\n")
    terminal.expect("ended 2")
    assert terminal.settings() == changed
    terminal.type("exit\n")
    terminal.wait()
