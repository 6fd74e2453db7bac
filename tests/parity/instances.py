"""Instances of either engine for tests: run to their end, or running until the test is done with them."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from pytest_flux.client import Flux
from tests.launcher.sessions import DEADLINE, Pipe
from tests.parity.differences import hide_differences

# What varies from run to run. A log line begins with a time stamp.
_NORMAL = (
    (re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{6} \S+ \d{4} ", re.MULTILINE), ""),
    (re.compile(r"\(pid \d+\)"), "(pid <PID>)"),
    (re.compile(r"/[^\s:]*/flux-[A-Za-z0-9]{6}\b"), "<RUNDIR>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<UUID>"),
    (re.compile(r"(?<![\w.-])\d+(\.\d+)?(e-\d+)?(ms|s|m)\b"), "<TIME>"),
)


class Outcome(NamedTuple):
    """How a session ended; its output without what varies from run to run."""

    code: int
    stdout: str
    stderr: str

    @property
    def log(self) -> list[str]:
        """The lines of standard error."""
        return self.stderr.splitlines()


def normalize(text: str) -> str:
    for pattern, replacement in _NORMAL:
        text = pattern.sub(replacement, text)
    return text


class Engine:
    """One of the two engines, by the value for ``--broker``."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self._path = path

    def __repr__(self) -> str:
        return self.name

    @property
    def is_embedded(self) -> bool:
        return self.name == "embedded"

    def command(self, *arguments: str) -> list[str]:
        """A flux-start that runs nothing of its own but brokers and the initial program.

        Real brokers load their modules by rc1. Embedded ones without rc1 have them built in.
        """
        bare = [] if self.is_embedded else ["-Sbroker.rc1_path=", "-Sbroker.rc3_path="]
        return [sys.executable, "-m", "pytest_flux.cli.flux_start", f"--broker={self.name}", *bare, *arguments]

    def environ(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
        environ: dict[str, str | None] = {**os.environ, "PATH": self._path, "SHELL": "/bin/bash", **(changes or {})}
        return {name: value for name, value in environ.items() if value is not None}

    def run(
        self, *arguments: str, environ: Mapping[str, str | None] | None = None, timeout: float = DEADLINE
    ) -> Outcome:
        """A session to its end."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environ(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Outcome(done.returncode, normalize(done.stdout), hide_differences(self.name, normalize(done.stderr)))

    @contextmanager
    def running(
        self,
        *arguments: str,
        program: Sequence[str] = ("sh", "-c", "echo ready; exec cat"),
        environ: Mapping[str, str | None] | None = None,
        wait: bool = True,
    ) -> Iterator[Running]:
        """A session whose initial program says ``ready``, and ends when its standard input does."""
        rundir = f"{tempfile.gettempdir()}/flux-{secrets.token_hex(3)}"
        process = subprocess.Popen(
            self.command(f"--rundir={rundir}", *arguments, *program),
            env=self.environ(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running = Running(process, rundir)
        try:
            if wait:
                assert running.stdout.line() == "ready"
            yield running
        finally:
            running.end()


class Running:
    """A session that runs. What it prints can be waited for."""

    def __init__(self, process: subprocess.Popen[bytes], rundir: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = Pipe(process.stdout.fileno())
        self._stderr = Pipe(process.stderr.fileno())
        self.lines: list[str] = []
        self.rundir = rundir
        self._clients: list[Flux] = []
        self._ended = False

    # -- its output

    def wait_for(self, pattern: str) -> str:
        """The first line of standard error, from the beginning, in which ``pattern`` is found."""
        for line in self.lines:
            if re.search(pattern, line):
                return line
        while True:
            line = normalize(self._stderr.line() + "\n").rstrip("\n")
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def stop(self) -> Outcome:
        """Let the initial program end, and wait for the end of the session."""
        self.stdin.close()
        self.process.stdin = None
        return self.finish()

    def finish(self) -> Outcome:
        """Wait for the end of the session; what it printed in all."""
        self._close_clients()
        stdout = self.stdout.rest()
        rest = normalize(self._stderr.rest()).splitlines()
        self.lines += rest
        self._ended = True
        return Outcome(self.process.wait(DEADLINE), normalize(stdout), "\n".join(self.lines))

    # -- its processes

    def pids(self) -> dict[int, int]:
        """The process ids of the brokers that run, by rank."""
        with Flux(f"local://{self.rundir}/start") as start:
            procs = start.rpc("start.status").get()["procs"]
        return {rank: proc["pid"] for rank, proc in enumerate(procs) if proc["pid"] > 0}

    def kill(self, rank: int, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pids()[rank], signum)

    def start_service(self) -> Flux:
        """A connection to the `start` service of the launcher, closed at the end."""
        return self._keep(Flux(f"local://{self.rundir}/start"))

    def client(self, rank: int = 0) -> Flux:
        """A connection to a broker, closed at the end."""
        return self._keep(Flux(f"local://{self.rundir}/local-{rank}"))

    def _keep(self, client: Flux) -> Flux:
        self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def end(self) -> None:
        """Let the initial program end, and everything with it; kill what does not."""
        self._close_clients()
        if not self._ended:
            try:
                self.process.communicate(timeout=DEADLINE)
            except subprocess.TimeoutExpired:
                self._kill()
        for stream in (self.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _kill(self) -> None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.kill()
        self.process.kill()
        self.process.communicate()


def eventually(condition: object, what: str) -> None:
    """Wait until a callable is true; polling, for what the system tells nobody."""
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE} s: {what}"
        time.sleep(0.01)
