"""One task: its process, its three standard streams, its end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Any, Protocol

from pytest_flux.broker.exec.mustache import TagsOfTask
from pytest_flux.broker.exec.output import Output
from pytest_flux.broker.exec.terminal import Terminal
from pytest_flux.protocol.wait_status import exit_code
from pytest_flux.reactor.pipe import LineBuffer, PipeReader, PipeWriter
from pytest_flux.reactor.program import STDERR, STDIN, STDOUT, Program, close_all, spawn
from pytest_flux.reactor.reactor import Reactor

_LONGEST_LINE = 4 << 20
"""A line longer than this is passed on in pieces (the size of libsubprocess's buffer)."""


class TaskOwner(Protocol):
    """What a task uses of its shell."""

    reactor: Reactor
    output: Output
    is_paused: bool

    def task_ended(self, task: Task) -> None:
        """The process has ended, and its streams are at their end."""


class Task:
    """A task of a shell."""

    def __init__(self, owner: TaskOwner, tags: TagsOfTask) -> None:
        self.owner = owner
        self.tags = tags
        self.pid = 0
        self.status: int | None = None
        self._leads_group = True
        self._readers: list[PipeReader] = []
        self._stdin: PipeWriter | None = None
        self._is_over = False
        self.terminal: Terminal | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self.pid > 0 and self.status is None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.status is not None and not self.is_open and (self.terminal is None or not self.terminal.is_open)

    @property
    def is_open(self) -> bool:
        """Whether more output may come."""
        return any(reader.is_open for reader in self._readers) or (
            self.terminal is not None and self.terminal.is_capturing
        )

    def start(self, program: Program, input_path: str | None = None, inherited: Sequence[int] = ()) -> None:
        """Start the process. OSError if that fails.

        Its input is ``input_path``, if there is one, or what ``write`` sends.
        """
        if self.terminal is not None:
            self._start_in_terminal(program, self.terminal, inherited)
            return
        self._leads_group = program.group is not None
        ours: dict[int, int] = {}
        theirs: dict[int, int] = {}
        try:
            for stream in (STDOUT, STDERR):
                ours[stream], theirs[stream] = os.pipe()
            if input_path is None:
                theirs[STDIN], ours[STDIN] = os.pipe()
            else:
                theirs[STDIN] = os.open(input_path, os.O_RDONLY)
            self.pid = spawn(program, theirs, inherited)
        except BaseException:
            close_all(ours.values())
            raise
        finally:
            close_all(theirs.values())
        reactor = self.owner.reactor
        reactor.on_child(self.pid, self._exited)
        self._readers = [self._read("stdout", ours[STDOUT]), self._read("stderr", ours[STDERR])]
        self._stdin = PipeWriter(reactor, ours[STDIN]) if input_path is None else None

    def _start_in_terminal(self, program: Program, terminal: Terminal, inherited: Sequence[int]) -> None:
        self.pid = spawn(program._replace(terminal=terminal.path), {}, inherited)
        self.owner.reactor.on_child(self.pid, self._exited)
        terminal.pause(self.owner.is_paused)
        terminal.started()

    def _read(self, stream: str, descriptor: int) -> PipeReader:
        output, rank = self.owner.output, self.tags.rank
        lines = LineBuffer(_LONGEST_LINE if output.by_line(stream) else 1)

        def read(data: bytes) -> None:
            pieces = lines.feed(data)
            if pieces:
                output.write(stream, rank, pieces)
            if not data:
                output.end(stream, rank)
                self.settle()

        reader = PipeReader(self.owner.reactor, descriptor, read)
        if self.owner.is_paused:
            reader.pause(True)
        return reader

    def captured(self, data: bytes) -> None:
        """The task has written this to its terminal."""
        self.owner.output.write("stdout", self.tags.rank, [data])

    def write(self, data: bytes, *, eof: bool) -> None:
        """Feed standard input."""
        if self._stdin is not None:
            if data:
                self._stdin.write(data)
            if eof:
                self._stdin.end()

    def kill(self, signum: int) -> None:
        """Signal the task, and its process group, if it has not ended."""
        if self.is_running:
            self._kill(signum)

    def _kill(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._leads_group:
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)

    def destroy(self) -> None:
        """Kill what is left of it and close the streams. The shell is not called for this."""
        self._is_over = True
        if self.pid and (self.status is None or self.is_open):
            self._kill(signal.SIGKILL)
        for reader in self._readers:
            reader.close()
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
        if self.terminal is not None:
            self.terminal.close()

    def pause(self, paused: bool) -> None:
        """Leave the output unread, or read on."""
        for reader in self._readers:
            reader.pause(paused)
        if self.terminal is not None:
            self.terminal.pause(paused)

    def info(self) -> dict[str, Any]:
        """The context of ``shell.task-exit``, for a task that has ended."""
        status = self.status or 0
        signum = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return {
            "localid": self.tags.local_id,
            "rank": self.tags.rank,
            "state": "Exited",
            "pid": self.pid,
            "wait_status": status,
            "signaled": signum,
            "exitcode": exit_code(status),
        }

    def _exited(self, status: int) -> None:
        self.status = status
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
        if self.terminal is not None:
            self.terminal.exited(status)
        self.settle()

    def settle(self) -> None:
        """Call the shell if everything has ended."""
        if not self._is_over and self.status is not None and not self.is_open:
            self._is_over = True
            if self.terminal is not None:
                for stream in ("stdout", "stderr"):
                    self.owner.output.end(stream, self.tags.rank)
            if self._leads_group:
                # Nothing that the task has left behind outlives it. Later, another process group may have its id.
                self._kill(signal.SIGKILL)
            self.owner.task_ended(self)
