"""One task: a process, its three standard streams, its end."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Protocol

from pytest_flux.broker.exec.mustache import TagsOfTask
from pytest_flux.broker.exec.output import Output
from pytest_flux.broker.exec.spawn import Program, spawn
from pytest_flux.broker.exec.terminal import Terminal
from pytest_flux.reactor.process import PipeWriter
from pytest_flux.reactor.reactor import Reactor

_CHUNK = 1 << 14
_LONGEST_LINE = 4 << 20
"""What a stream may put out without a newline before it is passed on as it is (libsubprocess's buffer)."""


class TaskOwner(Protocol):
    """What a task needs of its shell."""

    reactor: Reactor
    output: Output
    is_paused: bool

    def task_ended(self, task: Task) -> None:
        """The process has ended, and its streams are at their end."""


class _Reader:
    """Passes on what one stream puts out."""

    __slots__ = ("_by_line", "_descriptor", "_partial", "_size", "_task", "name")

    def __init__(self, task: Task, name: str, descriptor: int) -> None:
        self._task = task
        self.name = name
        self._descriptor = descriptor
        self._by_line = task.owner.output.by_line(name)
        self._partial: list[bytes] = []
        self._size = 0
        os.set_blocking(descriptor, False)
        self.pause(task.owner.is_paused)

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
            return
        task = self._task
        if self._partial:
            task.owner.output.write(self.name, task.tags.rank, [b"".join(self._partial)])
        self.close()
        task.owner.output.end(self.name, task.tags.rank)
        task.settle()

    def _take(self, data: bytes) -> None:
        end = data.rfind(b"\n") + 1 if self._by_line else len(data)
        if not end and self._size + len(data) < _LONGEST_LINE:
            self._partial.append(data)
            self._size += len(data)
            return
        end = end or len(data)
        self._partial.append(data[:end])
        lines = b"".join(self._partial).split(b"\n")
        self._partial = [data[end:]] if end < len(data) else []
        self._size = len(data) - end
        pieces = [line + b"\n" for line in lines[:-1]]
        if lines[-1]:
            pieces.append(lines[-1])
        self._task.owner.output.write(self.name, self._task.tags.rank, pieces)

    def pause(self, paused: bool) -> None:
        """Read nothing for now, or again: who writes has to wait."""
        if self._descriptor >= 0:
            self._task.owner.reactor.on_readable(self._descriptor, None if paused else self._readable)

    def close(self) -> None:
        """Read no more."""
        if self._descriptor >= 0:
            self._task.owner.reactor.on_readable(self._descriptor, None)
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Whether there may be more."""
        return self._descriptor >= 0


class Task:
    """A task of a shell."""

    def __init__(self, owner: TaskOwner, tags: TagsOfTask) -> None:
        self.owner = owner
        self.tags = tags
        self.pid = 0
        self.status: int | None = None
        self._group = True
        self._readers: list[_Reader] = []
        self._stdin: PipeWriter | None = None
        self._is_over = False
        self.terminal: Terminal | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self.pid > 0 and self.status is None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status is not None and not self.is_open and (self.terminal is None or not self.terminal.is_open)

    @property
    def is_open(self) -> bool:
        """Whether there may be more output."""
        return any(reader.is_open for reader in self._readers) or (
            self.terminal is not None and self.terminal.is_capturing
        )

    def start(self, program: Program, input_path: str | None = None, inherited: int = -1) -> None:
        """Start it. Raises OSError where that fails. ``input_path`` is read instead of what comes by ``write``."""
        if self.terminal is not None:
            self._start_in_terminal(program, self.terminal, inherited)
            return
        self._group = program.group
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for _ in ("stdout", "stderr"):
                source, target = os.pipe()
                ours.append(source)
                theirs.append(target)
            if input_path is None:
                source, target = os.pipe()
                ours.append(target)
            else:
                source = os.open(input_path, os.O_RDONLY)
            theirs.append(source)
            self.pid = spawn(program, source, theirs[0], theirs[1], inherited)
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        reactor = self.owner.reactor
        reactor.on_child(self.pid, self._exited)
        self._readers = [_Reader(self, "stdout", ours[0]), _Reader(self, "stderr", ours[1])]
        self._stdin = PipeWriter(reactor, ours[2]) if input_path is None else None

    def _start_in_terminal(self, program: Program, terminal: Terminal, inherited: int) -> None:
        self.pid = spawn(program._replace(terminal=terminal.path), -1, -1, -1, inherited)
        self.owner.reactor.on_child(self.pid, self._exited)
        terminal.pause(self.owner.is_paused)
        terminal.started()

    def captured(self, data: bytes) -> None:
        """What it writes to its terminal."""
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
            if self._group:
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)

    def destroy(self) -> None:
        """Kill what is left of it and close the streams. Nothing is called back for what follows."""
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
        """Leave what the task puts out where it is, or read on."""
        for reader in self._readers:
            reader.pause(paused)
        if self.terminal is not None:
            self.terminal.pause(paused)

    def info(self) -> dict[str, Any]:
        """What ``shell.task-exit`` says of a task that has ended."""
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
        """Tell the shell, if all is over."""
        if not self._is_over and self.status is not None and not self.is_open:
            self._is_over = True
            if self.terminal is not None:
                for stream in ("stdout", "stderr"):
                    self.owner.output.end(stream, self.tags.rank)
            if self._group:
                # What the task has left behind does not outlive it. Now is the time: later, others may have its id.
                self._kill(signal.SIGKILL)
            self.owner.task_ended(self)


def exit_code(status: int) -> int:
    """A wait status as shells report it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
