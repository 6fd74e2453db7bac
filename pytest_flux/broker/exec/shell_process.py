"""The process of a job shell: the parent of the tasks, and the writer of output files.

A shell lives in its broker, which is a process that must not end because of a job, and must not wait for one. Two
things of a job can do either, so they belong to a process of the job's own:

* Tasks have a parent. ``kill -9 $PPID``, or ``kill 0`` in a task that shares its parent's process group, ends whoever
  that is. In flux-core it is the job's shell, and its death ends the job.
* Files can block: opening a FIFO that nobody reads, writing to one that nobody drains, a file system that hangs. In
  flux-core the shell waits, and the job with it.

Three ways were measured. A fork of the broker for each job costs as much as starting the task itself, since the
memory of a Python process has to be copied. A shell script as parent costs an exec of its own, and can write no
files. A single process for all jobs of a broker costs nothing, but one job could still end the tasks of all. So
processes are forked when they are needed, and used again for the next job: in a series of short jobs there is one,
and what it costs is a message to and fro. Work that was the broker's, starting programs, happens beside it.

What must stay true:

* A process serves one job at a time, and is used again only if that job has left nothing: no task, no open file, and
  no task shared its process group.
* If the broker goes, the process kills its tasks and goes, too. It sees that by the end of its socket.
* The broker never waits for the process: requests are queued, answers call back. A process that is stopped, or
  blocked by a file, holds up its job only; ``kill`` always works.
* As in flux-core's shell, SIGINT, SIGTERM and SIGALRM are passed on to the tasks (src/shell/signals.c). Other signals
  end the process, and so the job.

One thing cannot be had: if the process gets SIGKILL in the moment between the start of a task and the answer that
says so, nobody knows the task's pid. It goes on as an orphan, as all tasks of a killed shell do in flux-core, and
ends with the instance at the latest.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_flux.reactor.program import STDIN, Program, close_all, spawn
from pytest_flux.reactor.reactor import Reactor

if TYPE_CHECKING:
    from typing import NoReturn

_MAX_SPARE = 8
_CHUNK = 1 << 16
_MAX_DESCRIPTORS = 16
_HIGH, _LOW = 1 << 20, 1 << 18
"""Above so many bytes that the process has not taken, the shell reads no more of its tasks; below, it reads on."""

_HEADER = struct.Struct("=IB")
"""The length of a request, and the number of descriptors that come with it."""

_NOTICE = struct.Struct("=Bii")
_ANSWER, _EXIT = 0, 1
"""What the process sends: (pid or 0, errno) to the oldest request, or (pid, status) when a task has ended."""

Answer = Callable[[int, int], None]
"""Takes a process id, or 0, and an errno, or 0."""


class ShellProcess:
    """The broker's side of one process. ``ended`` is called with its wait status if it ends by itself."""

    def __init__(self, reactor: Reactor, name: str) -> None:
        self._reactor = reactor
        self.ended: Callable[[int], None] = _ignore
        self.backlogged: Callable[[bool], None] = _ignore
        self._is_backlogged = False
        self._answers: deque[Answer] = deque()
        self._tasks: dict[int, Callable[[int], None]] = {}
        self._unsent: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._size = 0
        self._received = b""
        self.is_shared = False
        self.cpus: frozenset[int] | None = None
        self._socket: socket.socket | None
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        try:
            self.pid = os.fork()
        except OSError:
            self._socket.close()
            theirs.close()
            raise
        if self.pid == 0:
            _become(theirs, name)
        theirs.close()
        reactor.on_child(self.pid, self._exited)
        reactor.on_readable(self._socket.fileno(), self._readable)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, and nothing of a job is left in it."""
        return self._socket is not None and not self._answers and not self._tasks and not self.is_shared

    # -- requests

    def spawn(
        self,
        program: Program,
        cpus: frozenset[int] | None,
        streams: Mapping[int, int],
        input_path: str | None,
        started: Answer,
        exited: Callable[[int], None],
    ) -> None:
        """Start a program. ``started`` gets its pid or why there is none, ``exited`` its wait status.

        ``streams`` has our descriptors by the numbers that they have in the program; they are closed here. Its
        standard input is ``input_path``, if there is one. It runs on ``cpus``, or on those of the broker.
        """

        def answered(pid: int, errnum: int) -> None:
            if pid:
                self._tasks[pid] = exited
            started(pid, errnum)

        self.cpus = cpus
        self.is_shared = self.is_shared or (program.group is None and program.terminal is None)
        request = ("spawn", *_packed(program), cpus, tuple(streams), input_path)
        self._request(request, answered, tuple(streams.values()))

    def open(self, path: str, flags: int, answered: Answer) -> None:
        """Open a file, which ``write`` then knows by its path."""
        self._request(("open", path, flags), answered)

    def write(self, path: str, data: bytes, answered: Answer) -> None:
        """Write to a file."""
        self._request(("write", path, data), answered)

    def close_files(self, answered: Answer) -> None:
        """Close all files, after everything was written."""
        self._request(("close",), answered)

    def kill(self) -> None:
        """End the process, whatever it does, and forget it. Tasks that it has started are the caller's."""
        if self._socket is None:
            return
        self.ended = _ignore
        starting = any(descriptors for _, descriptors in self._unsent) or bool(self._answers)
        self._close()
        if not starting:
            self._signal(signal.SIGKILL)
            return
        # It may be about to start a task, of which nobody knows yet. It kills that when it sees that we are gone.
        self._signal(signal.SIGCONT)
        self._reactor.call_later(1.0, lambda: self._signal(signal.SIGKILL))

    def _signal(self, signum: int) -> None:
        # Its pid is not used again as long as the reactor has not reaped it.
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)
                if self.is_shared:
                    os.killpg(self.pid, signum)

    # -- the socket

    def _request(self, request: tuple[Any, ...], answered: Answer, descriptors: Sequence[int] = ()) -> None:
        if self._socket is None:
            # There is no answer: that the process has ended says everything.
            close_all(descriptors)
            return
        # Both ends are forks of one program, so the interpreter's own format will do.
        body = marshal.dumps(request)
        self._answers.append(answered)
        self._unsent.append((memoryview(_HEADER.pack(len(body), len(descriptors)) + body), descriptors))
        self._size += _HEADER.size + len(body)
        self._send()

    def _send(self) -> None:
        while self._unsent and self._socket is not None:
            data, descriptors = self._unsent[0]
            try:
                if descriptors:
                    sent = socket.send_fds(self._socket, [data], list(descriptors))
                    close_all(descriptors)
                else:
                    sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # It is gone; its end is reported apart.
                self._close()
                return
            self._size -= sent
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
            else:
                self._unsent.popleft()
        if self._socket is not None:
            self._reactor.on_writable(self._socket.fileno(), self._send if self._unsent else None)
        self._check_backlog()

    def _check_backlog(self) -> None:
        if self._size > _HIGH and not self._is_backlogged:
            self._is_backlogged = True
            self.backlogged(True)
        elif self._size < _LOW and self._is_backlogged:
            self._is_backlogged = False
            self.backlogged(False)

    def _readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Whether there was something to read."""
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._close()
            return False
        data = self._received + data
        whole = len(data) - len(data) % _NOTICE.size
        self._received = data[whole:]
        for kind, first, second in _NOTICE.iter_unpack(data[:whole]):
            if kind == _EXIT:
                self._tasks.pop(first)(second)
            elif self._answers:
                self._answers.popleft()(first, second)
        return True

    def _close(self) -> None:
        if self._socket is not None:
            self._reactor.on_readable(self._socket.fileno(), None)
            self._reactor.on_writable(self._socket.fileno(), None)
            self._socket.close()
            self._socket = None
        for _, descriptors in self._unsent:
            close_all(descriptors)
        self._unsent.clear()
        self._answers.clear()

    def _exited(self, status: int) -> None:
        while self._read():
            # What it has sent last comes first.
            pass
        self._close()
        self.pid = 0
        self.ended(status)


def _ignore(_: object) -> None:
    """Nobody wants to know."""


def _packed(program: Program) -> tuple[Any, ...]:
    limits = tuple((int(kind), soft) for kind, soft in program.limits)
    return list(program.argv), dict(program.environ), program.cwd, program.group, limits, program.terminal


class ShellProcesses:
    """The processes of one broker's shells, of which those that are free can be used again."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._free: list[ShellProcess] = []
        self._used: set[ShellProcess] = set()

    def take(self, cpus: frozenset[int] | None = None) -> ShellProcess:
        """A process for one job that runs on ``cpus``. OSError if there cannot be another."""
        self._free = [process for process in self._free if process.is_idle]
        # One that is bound to these need not move.
        process = next((process for process in self._free if process.cpus == cpus), None)
        if process is not None:
            self._free.remove(process)
        elif self._free:
            process = self._free.pop()
        else:
            process = ShellProcess(self._reactor, "flux-shell")
        self._used.add(process)
        return process

    def give(self, process: ShellProcess) -> None:
        """The job is over: keep the process for the next one, or end it."""
        self._used.discard(process)
        process.ended = process.backlogged = _ignore
        if process.is_idle and len(self._free) < _MAX_SPARE:
            self._free.append(process)
        else:
            process.kill()

    def destroy(self) -> None:
        """End all processes."""
        for process in (*self._free, *self._used):
            process.kill()
        self._free.clear()
        self._used.clear()


# -- the process itself


def _become(connection: socket.socket, name: str) -> NoReturn:
    """Be the process, which was forked a moment ago."""
    status = 1
    try:
        import gc

        # A collection would write to memory that is shared with the broker.
        gc.disable()
        signal.set_wakeup_fd(-1)
        for signum in signal.valid_signals():
            if signal.getsignal(signum) not in (signal.SIG_DFL, signal.SIG_IGN, None):
                signal.signal(signum, signal.SIG_DFL)
        os.setpgid(0, 0)
        number = connection.detach()
        os.closerange(3, number)
        os.closerange(number + 1, 1 << 20)
        with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as comm:
            comm.write(name)
        _Server(socket.socket(fileno=number)).run()
        status = 0
    finally:
        # Never further up: those frames, and what they would clean up, are the broker's.
        os._exit(status)


class _Server:
    """Carries out requests one after another, and may be blocked by them."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._socket = connection
        self._reactor = Reactor()
        self._data = bytearray()
        self._descriptors: deque[int] = deque()
        self._files: dict[str, int] = {}
        self._children: dict[int, bool] = {}
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset[int]()
        self._bound_to = frozenset(self._cpus)

    def run(self) -> None:
        """Serve until the broker is gone; then kill the tasks."""
        self._reactor.on_readable(self._socket.fileno(), self._receive)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            self._reactor.on_signal(signum, self._kill)
        for signum in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            self._reactor.on_signal(signum, self._die)
        try:
            self._reactor.run()
        except (BrokenPipeError, ConnectionResetError):
            pass
        self._kill(signal.SIGKILL)

    def _kill(self, signum: int) -> None:
        for pid, leads_group in self._children.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if leads_group:
                    os.killpg(pid, signum)
                else:
                    os.kill(pid, signum)

    def _die(self, signum: int) -> None:
        """End as if the signal were not caught, but not before the tasks."""
        self._kill(signal.SIGKILL)
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def _receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, _MAX_DESCRIPTORS)
        if not data:
            self._reactor.stop()
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._data += data
        self._descriptors.extend(descriptors)
        while len(self._data) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._data)
            end = _HEADER.size + length
            if len(self._data) < end:
                return
            name, *arguments = marshal.loads(bytes(self._data[_HEADER.size : end]))
            del self._data[:end]
            mine = [self._descriptors.popleft() for _ in range(count)]
            pid = errnum = 0
            try:
                pid = getattr(self, f"_{name}")(*arguments, *((mine,) if mine else ()))
            except (OSError, ValueError) as error:
                errnum = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
            self._socket.sendall(_NOTICE.pack(_ANSWER, pid or 0, errnum))

    def _spawn(
        self,
        argv: list[str],
        environ: dict[str, str],
        cwd: str | None,
        group: int | None,
        limits: Sequence[tuple[int, int]],
        terminal: str | None,
        cpus: frozenset[int] | None,
        targets: Sequence[int],
        input_path: str | None,
        descriptors: Sequence[int] = (),
    ) -> int:
        streams = dict(zip(targets, descriptors, strict=True))
        try:
            if input_path is not None:
                streams = {STDIN: os.open(input_path, os.O_RDONLY), **streams}
            self._bind(self._cpus if cpus is None else cpus)
            pid = spawn(Program(argv, environ, cwd, group, limits, terminal), streams)
        finally:
            close_all(streams.values())
        leads_group = group is not None or terminal is not None
        self._children[pid] = leads_group
        self._reactor.on_child(pid, lambda status: self._exited(pid, status))
        return pid

    def _bind(self, cpus: Sequence[int] | frozenset[int] | set[int]) -> None:
        """Run on these processors, and so do programs from their first moment on."""
        if self._bound_to != frozenset(cpus):
            os.sched_setaffinity(0, cpus)
            self._bound_to = frozenset(cpus)

    def _exited(self, pid: int, status: int) -> None:
        del self._children[pid]
        self._socket.sendall(_NOTICE.pack(_EXIT, pid, status))

    def _open(self, path: str, flags: int) -> None:
        self._files[path] = os.open(path, flags, 0o644)

    def _write(self, path: str, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._files[path], left) :]

    def _close(self) -> None:
        close_all(self._files.values())
        self._files.clear()
        os.chdir("/")
