"""Sessions with brokers that are scripts: what the launcher does with any broker shows best with a small one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

DEADLINE = 30.0
"""Longer than anything here takes, however busy the machine."""

PROMPT = 2.0
"""How long what is left of an instance may live, in seconds, after its launcher was killed."""


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Pipe:
    """The reading end of a pipe that many processes may hold the other end of."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = b""
        self._ended = False

    def line(self) -> str:
        """The next line, without its LF."""
        deadline = time.monotonic() + DEADLINE
        while b"\n" not in self._data:
            assert self._fill(deadline), f"the output ended, or took too long, after {self._data!r}"
        line, self._data = self._data.split(b"\n", 1)
        return line.decode()

    def rest(self, limit: float = DEADLINE) -> str:
        """Everything up to the moment when the last process that holds the other end has closed it."""
        deadline = time.monotonic() + limit
        while self._fill(deadline):
            pass
        assert self._ended, f"after {limit} s there is still a process that has our pipe; got {self._data!r}"
        return self._data.decode()

    def _fill(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        data = os.read(self._descriptor, 65536)
        self._data += data
        self._ended = not data
        return bool(data)


class Session:
    """A flux-start that runs. Each of its processes holds the pipes, so their end is the end of them all."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdout = Pipe(process.stdout.fileno())
        self.stderr = Pipe(process.stderr.fileno())

    @property
    def supervisor(self) -> int:
        """The process id of the supervisor."""
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid

    def brokers(self) -> list[int]:
        """The process ids of the brokers."""
        return [process.pid for process in psutil.Process(self.supervisor).children()]

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def end(self, limit: float = DEADLINE) -> Ended:
        """Wait until no process of it is left."""
        stdout, stderr = self.stdout.rest(limit), self.stderr.rest(limit)
        return Ended(self.process.wait(DEADLINE), stdout, stderr)

    def kill(self) -> None:
        """For tests that have failed: the supervisor, which is left, cleans up."""
        self.process.kill()


class Start:
    """Starts sessions in a directory, with a shell script for a broker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sessions: list[Session] = []

    def __call__(
        self,
        *options: str,
        broker: str,
        program: Sequence[str] = (),
        interpreter: str = "/bin/sh",
        environ: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        new_group: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> Session:
        script = self.directory / "flux-broker"
        script.write_text(f"#!{interpreter}\n{broker}\n")
        script.chmod(0o755)
        return self.command(
            [sys.executable, "-m", "pytest_flux.cli.flux_start", *options, *program],
            environ={"FLUX_EXEC_PATH_PREPEND": str(self.directory), **(environ or {})},
            before=before,
            new_group=new_group,
            pass_fds=pass_fds,
        )

    def command(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        before: Callable[[], None] | None = None,
        *,
        new_group: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> Session:
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=before,  # noqa: PLW1509 - there are no threads
            start_new_session=new_group,
            pass_fds=pass_fds,
        )
        session = Session(process)
        self.sessions.append(session)
        return session


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts sessions; those that a failed test has left are killed."""
    starter = Start(tmp_path)
    yield starter
    for session in starter.sessions:
        if session.process.poll() is None:
            session.kill()
        session.process.communicate(timeout=DEADLINE)


def signal_name(line: str) -> str:
    """The name for a number that a script has printed."""
    return signal.Signals(int(line)).name
