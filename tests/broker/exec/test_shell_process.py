"""The process that starts tasks and writes files: whatever happens to it, its broker lives and does not wait."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_flux.broker.exec.shell_process import ShellProcess, ShellProcesses
from pytest_flux.reactor.program import STDOUT, Program
from pytest_flux.reactor.reactor import Reactor


class Bench:
    """A reactor with processes on it, which gives up after ten seconds."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.deadline = self.reactor.call_later(10, self.reactor.stop)
        self.processes = ShellProcesses(self.reactor)

    def run_until(self, is_so: Callable[[], bool]) -> None:
        def check() -> None:
            if is_so():
                self.reactor.stop()
            else:
                self.reactor.call_later(0.005, check)

        check()
        self.reactor.run()
        assert self.deadline.callback is not None, "nothing more happened"


class Started:
    """A program under a process."""

    def __init__(
        self,
        process: ShellProcess,
        *argv: str,
        group: int | None = 0,
        cpus: frozenset[int] | None = None,
        input_path: str | None = None,
    ) -> None:
        self.pid = self.errnum = -1
        self.status = -1
        self.reading, writing = os.pipe()
        program = Program(argv, dict(os.environ), group=group)
        process.spawn(program, cpus, {STDOUT: writing}, input_path, self._started, self._exited)

    def _started(self, pid: int, errnum: int) -> None:
        self.pid, self.errnum = pid, errnum

    def _exited(self, status: int) -> None:
        self.status = status

    def output(self) -> str:
        with open(self.reading) as stream:
            return stream.read()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.processes.destroy()
    made.reactor.reap()
    while made.reactor._children:
        made.run_until(lambda: not made.reactor._children)
    made.reactor.close()


def test_a_program_runs_and_its_status_comes_back(bench: Bench) -> None:
    process = bench.processes.take()
    started = Started(process, "sh", "-c", "echo $PPID; exit 3")
    bench.run_until(lambda: started.status >= 0)
    assert started.output() == f"{process.pid}\n"
    assert (started.errnum, started.status) == (0, 3 << 8)
    bench.processes.give(process)
    assert bench.processes.take() is process


def test_a_program_that_cannot_be_started(bench: Bench) -> None:
    process = bench.processes.take()
    started = Started(process, "/no/such/program")
    bench.run_until(lambda: started.errnum >= 0)
    assert (started.pid, started.errnum) == (0, errno.ENOENT)
    assert started.output() == ""
    bench.processes.give(process)
    assert bench.processes.take() is process


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound here")
def test_processors_are_bound_before_the_program_runs(bench: Bench) -> None:
    process = bench.processes.take()
    everything = os.sched_getaffinity(0)
    script = "import os; print(*sorted(os.sched_getaffinity(0)))"
    for cpus in (frozenset((max(everything),)), None):
        started = Started(process, sys.executable, "-c", script, cpus=cpus)
        bench.run_until(lambda: started.status >= 0)  # noqa: B023 - it is called within this round
        assert started.output().split() == [str(cpu) for cpu in sorted(cpus or everything)]
    assert os.sched_getaffinity(0) == everything


def test_a_task_that_kills_its_parent_ends_the_process_only(bench: Bench) -> None:
    process, other = bench.processes.take(), bench.processes.take()
    statuses: list[int] = []
    process.ended = statuses.append
    first = Started(process, "sh", "-c", "kill -9 $PPID")
    second = Started(other, "sh", "-c", "exit 0")
    bench.run_until(lambda: bool(statuses) and second.status >= 0)
    assert statuses == [signal.SIGKILL]
    bench.processes.give(process)
    bench.processes.give(other)
    assert bench.processes.take() is other
    os.close(first.reading)
    os.close(second.reading)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
def test_signals_are_passed_on(bench: Bench, signum: int) -> None:
    process = bench.processes.take()
    started = Started(process, "sleep", "1000")
    bench.run_until(lambda: started.pid > 0)
    os.kill(process.pid, signum)
    bench.run_until(lambda: started.status >= 0)
    assert started.status == signum
    os.close(started.reading)


def test_a_stopped_process_can_be_ended(bench: Bench) -> None:
    process = bench.processes.take()
    first = Started(process, "sleep", "1000")
    bench.run_until(lambda: first.pid > 0)
    os.kill(process.pid, signal.SIGSTOP)
    second = Started(process, "sleep", "1000")
    process.kill()
    bench.run_until(lambda: not process.pid)
    assert second.pid == -1
    for started in (first, second):
        # Both end with it: there is nobody left who could write.
        assert started.output() == ""


def test_tasks_end_with_the_broker(bench: Bench) -> None:
    process = bench.processes.take()
    started = Started(process, "sleep", "1000")
    bench.run_until(lambda: started.pid > 0)
    assert process._socket is not None
    process._socket.shutdown(2)
    assert started.output() == ""
    bench.run_until(lambda: not process.pid)


def test_a_process_that_a_task_shared_is_not_used_again(bench: Bench) -> None:
    process = bench.processes.take()
    started = Started(process, "sh", "-c", "sleep 1000 & exit 0", group=None)
    bench.run_until(lambda: started.status >= 0)
    bench.processes.give(process)
    assert started.output() == ""
    assert bench.processes.take() is not process


def test_files_are_written_in_order(bench: Bench, tmp_path: Path) -> None:
    process = bench.processes.take()
    answers: list[tuple[int, int]] = []
    path = str(tmp_path / "file")
    process.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, lambda *answer: answers.append(answer))
    for number in range(1000):
        process.write(path, b"%d\n" % number, lambda *answer: answers.append(answer))
    process.close_files(lambda *answer: answers.append(answer))
    assert not process.is_idle
    bench.run_until(lambda: len(answers) == 1002)
    assert set(answers) == {(0, 0)}
    assert (tmp_path / "file").read_text() == "".join(f"{number}\n" for number in range(1000))
    assert process.is_idle


def test_what_fails_with_files_is_told(bench: Bench, tmp_path: Path) -> None:
    process = bench.processes.take()
    answers: list[int] = []
    process.open(str(tmp_path / "no" / "file"), os.O_WRONLY, lambda _, errnum: answers.append(errnum))
    process.open("/dev/full", os.O_WRONLY, lambda _, errnum: answers.append(errnum))
    process.write("/dev/full", b"x", lambda _, errnum: answers.append(errnum))
    bench.run_until(lambda: len(answers) == 3)
    assert answers == [errno.ENOENT, 0, errno.ENOSPC]


def test_a_fifo_that_nobody_reads_blocks_nobody_else(bench: Bench, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    process, other = bench.processes.take(), bench.processes.take()
    opened: list[int] = []
    process.open(fifo, os.O_WRONLY, lambda _, errnum: opened.append(errnum))
    backlog: list[bool] = []
    process.backlogged = backlog.append
    for _ in range(40):
        process.write(fifo, b"x" * (1 << 16), lambda *_: None)
    assert backlog == [True]
    started = Started(other, "echo", "word")
    bench.run_until(lambda: started.status >= 0)
    assert (started.output(), opened) == ("word\n", [])
    with open(fifo, "rb") as reader:
        bench.run_until(lambda: bool(opened))
        read = 0

        def read_on() -> bool:
            nonlocal read
            read += len(reader.read(1 << 16))
            return read == 40 << 16

        bench.run_until(read_on)
    assert (opened, backlog) == ([0], [True, False])


def test_input_from_a_fifo_blocks_nobody_else(bench: Bench, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    process = bench.processes.take()
    started = Started(process, "cat", input_path=fifo)
    bench.reactor.call_later(0.01, bench.reactor.stop)
    bench.reactor.run()
    assert started.pid == -1
    with open(fifo, "w") as writer:
        writer.write("fed")
    bench.run_until(lambda: started.status >= 0)
    assert started.output() == "fed"
