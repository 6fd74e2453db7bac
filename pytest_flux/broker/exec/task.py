"""One task: its process, its three standard streams, its end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pytest_flux.broker.exec.mustache import TagsOfTask
from pytest_flux.broker.exec.output import Output
from pytest_flux.broker.exec.shell_process import ShellProcess
from pytest_flux.broker.exec.terminal import Terminal
from pytest_flux.protocol.wait_status import exit_code
from pytest_flux.reactor.pipe import LineBuffer, PipeReader, PipeWriter
from pytest_flux.reactor.program import STDERR, STDIN, STDOUT, Program, close_all
from pytest_flux.reactor.reactor import Reactor

_LONGEST_LINE = 4 << 20
"""A line longer than this is passed on in pieces (the size of libsubprocess's buffer)."""


class TaskOwner(Protocol):
    """What a task uses of its shell."""

    reactor: Reactor
    output: Output

    @property
    def is_paused(self) -> bool:
        """Whether output is left unread for now."""

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
        self._ends: dict[int, int] = {}
        self._early_signals: list[int] = []
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

    def start(
        self,
        process: ShellProcess,
        program: Program,
        cpus: frozenset[int] | None,
        input_path: str | None,
        inherited: Mapping[int, int],
        started: Callable[[int], None],
    ) -> None:
        """Have the shell's process start the program on ``cpus``; then call ``started`` with an errno, or 0.

        Its input is ``input_path``, if there is one, or what ``write`` sends. ``inherited`` are further descriptors,
        by their numbers in the program; they are closed here.
        """
        self._leads_group = program.group is not None
        streams: dict[int, int] = {}
        try:
            if self.terminal is None:
                for stream in (STDOUT, STDERR):
                    self._ends[stream], streams[stream] = os.pipe()
                if input_path is None:
                    streams[STDIN], end = os.pipe()
                    self._stdin = PipeWriter(self.owner.reactor, end)
        except OSError as error:
            close_all((*streams.values(), *inherited.values()))
            started(error.errno or errno.EMFILE)
            return
        if self.terminal is not None:
            program, input_path, self._leads_group = program._replace(terminal=self.terminal.path), None, True

        def answered(pid: int, errnum: int) -> None:
            self._started(pid)
            started(errnum)

        process.spawn(program, cpus, {**streams, **inherited}, input_path, answered, self._exited)

    def _started(self, pid: int) -> None:
        """The program runs; or, if there is no pid, it could not be started."""
        self.pid = pid
        if self._is_over:
            # The shell has ended meanwhile.
            if pid:
                self._kill(signal.SIGKILL)
            return
        if not pid:
            return
        if self.terminal is not None:
            self.terminal.pause(self.owner.is_paused)
            self.terminal.started()
        else:
            ends, self._ends = self._ends, {}
            self._readers = [self._read("stdout", ends[STDOUT]), self._read("stderr", ends[STDERR])]
        for signum in self._early_signals:
            self._kill(signum)

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
        """Signal the task, and its process group, if it has not ended; as soon as it has started."""
        if self.is_running:
            self._kill(signum)
        elif not self.pid:
            self._early_signals.append(signum)

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
        close_all(self._ends.values())
        self._ends.clear()
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
