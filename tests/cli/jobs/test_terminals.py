"""Commands on a terminal: `flux alloc` and `flux run -o pty.interactive`, detaching, the size of the window."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

from tests.cli.jobs.commands import WAIT, Commands


class Screen:
    """A terminal of our own, and a command of `flux` on it."""

    def __init__(self, flux: Commands, *words: str) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 99, 0, 0))
        self.before = termios.tcgetattr(follower)
        self.follower = follower
        environ = {**flux.environ, "SHELL": "/bin/sh", "PS1": "prompt$ ", "TERM": "dumb"}
        self.process = subprocess.Popen(
            [*flux.program, *words],
            env=environ,
            cwd=flux.directory,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        self.text = ""

    def until(self, text: str) -> None:
        """Read until this has been written."""
        deadline = time.monotonic() + WAIT
        while text not in self.text:
            ready, _, _ = select.select([self._leader], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{text!r} was not written: {self.text!r}"
            self.text += os.read(self._leader, 4096).decode("utf-8", "replace")

    def after(self, text: str, answer: str) -> None:
        """Read on until an answer that is not in what was read before."""
        self.text = ""
        self.type(text)
        self.until(answer)

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def end(self) -> int:
        """Its exit code. The terminal has to be as it was."""
        self.until("[detached: ")
        code = self.process.wait(WAIT)
        assert termios.tcgetattr(self.follower) == self.before
        os.close(self._leader)
        os.close(self.follower)
        return code


def test_a_shell_in_an_instance(flux: Commands) -> None:
    """`flux alloc` without a command: our shell, on our terminal, with job control."""
    screen = Screen(flux, "alloc", "-N2")
    screen.until("prompt$ ")
    screen.after("flux getattr size\r", "2\r\n")
    screen.after("stty size\r", "31 99\r\nprompt$ ")
    screen.after("sleep 60\r", "sleep 60\r\n")
    screen.after("\x03", "prompt$ ")
    screen.after("flux run -N2 echo inside\r", "inside\r\ninside\r\n")
    screen.until("prompt$ ")
    screen.type("exit 3\r")
    # As in flux-core, where the code tells no more than whether it went well.
    assert screen.end() == 1


def test_detaching_and_attaching(flux: Commands) -> None:
    screen = Screen(flux, "run", "-o", "pty.interactive", "sh", "-c", "read line; echo got $line; read line")
    screen.type("first\r")
    screen.until("got first")
    screen.type("\x1d")
    assert screen.end() == 0
    again = Screen(flux, "job", "attach", flux.id("job", "last"))
    again.type("second\r")
    assert again.end() == 0


def test_the_window_changes(flux: Commands) -> None:
    screen = Screen(
        flux,
        "run",
        "-o",
        "pty.interactive",
        "sh",
        "-c",
        "trap 'stty size' WINCH; read go; echo ready; while :; do sleep 0.05; done",
    )
    screen.after("go\r", "ready")
    fcntl.ioctl(screen.follower, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 40, 0, 0))
    screen.process.send_signal(signal.SIGWINCH)
    screen.until("5 40\r\n")
    screen.type("\x03")
    assert screen.end() == 1


def test_what_cannot_be(flux: Commands) -> None:
    job = flux.id("submit", "-o", "pty.interactive", "cat")
    assert flux("job", "attach", "--read-only", job).shown == (
        1,
        "",
        "flux-job: Cannot connect to pty in readonly mode\n",
    )
    assert flux("cancel", job).code == 0
    # Depending on whether the terminal is still there.
    assert flux("job", "attach", job).code in (1, 143)
