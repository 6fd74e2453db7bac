"""The job shell: all tasks of a job that run at one broker.

It prepares first and runs when it is told to, so that no task of a job begins before all shells can start theirs.
``report`` gets what the job has to know: see messages.py.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import options
from pytest_flux.broker.exec.equipment import Equipment, find_tmpdir, job_text
from pytest_flux.broker.exec.messages import (
    ExceptionNote,
    Exited,
    GaveUp,
    OutputLines,
    PmiBarrier,
    Ready,
    Report,
    Running,
    TaskExit,
    TasksDone,
)
from pytest_flux.broker.exec.options import DEBUG, FATAL, ShellFailure, failure_of, is_set
from pytest_flux.broker.exec.output import Output, log_line
from pytest_flux.broker.exec.placement import Placement, place
from pytest_flux.broker.exec.pmi import ShellPmi, pmi_name, pmi_values
from pytest_flux.broker.exec.shell_process import ShellProcess, ShellProcesses
from pytest_flux.broker.exec.task import Task
from pytest_flux.broker.exec.terminal import Terminal, TerminalOptions, terminal_options
from pytest_flux.protocol.resource_set import ResourceSet
from pytest_flux.protocol.wait_status import exit_code

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.directories import Directories
    from pytest_flux.reactor.reactor import Reactor

_PMI_FD = 20
"""The number of a task's PMI connection. Scripts and shells use those below for themselves."""

_FINAL = (signal.SIGTERM, signal.SIGALRM, signal.SIGKILL)
"""After one of these signals, a task that has ended does not wait for a client to look at its terminal."""


class Shell:
    """See the module. ``jobspec`` has its environment."""

    placement: Placement
    output: Output
    _equipment: Equipment
    _terminal_options: TerminalOptions | None = None

    def __init__(
        self,
        reactor: Reactor,
        attributes: Attributes,
        rank: int,
        directories: Directories,
        processes: ShellProcesses,
        job_id: int,
        jobspec: dict[str, Any],
        resources: ResourceSet,
        report: Callable[[Report], None],
        placement: Placement | None = None,
    ) -> None:
        self.reactor = reactor
        self.attributes = attributes
        self._rank = rank
        self.job_id = job_id
        self.jobspec = jobspec
        self.options = options.shell_options(jobspec)
        self.report = report
        self._job = job_text(job_id, jobspec)
        self.tasks: list[Task] = []
        self.is_over = False
        self._has_exited = False
        self._has_run = False
        self._is_throttled = self._is_backlogged = False
        self._resources = resources
        self._placed = placement
        self._directories = directories
        self._processes = processes
        self._process: ShellProcess | None = None
        self._tmpdir = ""
        self._pmi: ShellPmi | None = None
        self._told_exit = False
        self._code = 0
        self._fatal_status = self._status = 0

    @property
    def _number(self) -> int:
        return list(self._resources).index(self._rank)

    # -- beginning

    def prepare(self) -> None:
        """Do everything that can fail before a task begins, then report Ready, or Exited."""
        shell = self._number
        try:
            tmpdir = find_tmpdir(self.jobspec)
            self._tmpdir = self._directories.make(self._job, shell, tmpdir)
            self.placement = self._placed or place(self.jobspec, self._resources, self.options)
            self._equipment = Equipment(
                self.reactor.clock,
                self.attributes,
                self._rank,
                self.job_id,
                self.jobspec,
                self.placement,
                self._tmpdir,
                self._send_output,
                self._take_process,
            )
            self.output = self._equipment.output
            for message in options.check_options(self.options, len(self._resources)):
                self.output.log(*message)
            self._terminal_options = terminal_options(self.options)
            self._equipment.outfit()
            self.tasks = [Task(self, task) for task in self._equipment.tasks]
            for task in self.tasks:
                task.terminal = self._terminal_of(task)
            self._start_pmi(len(self.tasks))
            self.output.open(self._equipment.tasks, self._prepared, running=False)
        except Exception as error:  # noqa: BLE001 - see failure_of
            self.die(failure_of(error))

    def _prepared(self, failure: ShellFailure | None) -> None:
        if self.is_over:
            return
        if failure is not None:
            self.die(failure)
            return
        if not self._number:
            self.output.redirect(self.placement.ntasks, len(self.placement.ranks))
        self.report(Ready())

    def _take_process(self) -> ShellProcess:
        """The process that opens files and starts tasks. ShellFailure if there cannot be one."""
        if self._process is None:
            try:
                self._process = self._processes.take(next(iter(self._equipment.cpus), None))
            except OSError as error:
                raise ShellFailure(f"error starting the shell's process: {error.strerror}") from None
            self._process.ended = self._process_ended
            self._process.backlogged = self._backlogged
        return self._process

    def _debug(self, text: str, component: str = "") -> None:
        """Log what the option ``verbose`` asks for."""
        if is_set(self.options, "verbose"):
            self.output.log(DEBUG, text, component)

    def _send_output(self, stream: str, size: int, text: str) -> None:
        self.report(OutputLines(stream, size, text))

    def _start_pmi(self, ntasks: int) -> None:
        wanted = str(self.options.get("pmi", "simple")).split(",")
        if not {"simple", "pmi1", "pmi2"} & set(wanted) or not ntasks:
            return
        alone = len(self.placement.ranks) == 1
        self._debug("simple wire protocol is enabled", "pmi-simple")
        self._pmi = ShellPmi(
            self.reactor,
            size=self.placement.ntasks,
            local_size=ntasks,
            name=pmi_name(
                self._job,
                self._resources.starttime,
                self.jobspec["tasks"][0]["command"][0],
            ),
            values=pmi_values(self.attributes, self.placement.taskmap, self.options),
            exchange=None if alone else lambda values: self.report(PmiBarrier(values)),
            abort=lambda note: self.report(ExceptionNote(note)),
            failed=self.die,
        )

    # -- running

    def run(self) -> None:
        """Start the tasks and report Running."""
        if not self.is_over and not self._has_run:
            self._has_run = True
            try:
                self.output.open([task.tags for task in self.tasks], self._opened, running=True)
            except ShellFailure as failure:
                self.die(failure)

    def _opened(self, failure: ShellFailure | None) -> None:
        if failure is not None:
            self.die(failure)
        else:
            self._start_next(iter(self.tasks))

    def _start_next(self, tasks: Iterator[Task]) -> None:
        if self.is_over:
            return
        task = next(tasks, None)
        if task is None:
            self.report(Running())
            self._check_end()
            return
        try:
            self._start(task, tasks)
        except Exception as error:  # noqa: BLE001 - see failure_of
            self.die(failure_of(error))

    def _start(self, task: Task, others: Iterator[Task]) -> None:
        process = self._take_process()
        inherited = {}
        if self._pmi is not None:
            inherited[_PMI_FD] = self._pmi.connect(task.tags.rank).detach()
        program = self._equipment.program(task.tags, _PMI_FD if inherited else -1)

        def started(errnum: int) -> None:
            if not errnum:
                self._start_next(others)
                return
            code = {errno.ENOENT: 127, errno.EACCES: 126, errno.EPERM: 126}.get(errnum, 1)
            where = f"task {task.tags.rank} (host {self.attributes.get('hostname')})"
            self.die(ShellFailure(f"{where}: start failed: {program.argv[0]}: {os.strerror(errnum)}", code))

        cpus = self._equipment.cpus[task.tags.local_id]
        task.start(process, program, cpus, self._equipment.input_path, inherited, started)

    def _terminal_of(self, task: Task) -> Terminal | None:
        chosen, rank = self._terminal_options, task.tags.rank
        if chosen is None or not chosen.covers(rank):
            return None
        # No client can attach to the others, so what they write must go into the output.
        captured = task.captured if chosen.capture or rank or not chosen.interactive else None

        def changed() -> None:
            task.settle()
            self._check_end()

        return Terminal(self.reactor, changed, captured, awaits_client=chosen.interactive and not rank)

    def terminal(self, rank: int) -> Terminal | None:
        """The terminal of a task, if it has one."""
        return next((task.terminal for task in self.tasks if task.tags.rank == rank), None)

    def task_ended(self, task: Task) -> None:
        """See TaskOwner in task.py."""
        assert task.status is not None
        self._code = max(self._code, exit_code(task.status))
        self._debug(f"task {task.tags.rank} complete status={exit_code(task.status)}")
        if self._pmi is not None:
            self._pmi.disconnect(task.tags.rank)
        if not self._told_exit:
            self._told_exit = True
            self.report(TaskExit(task.info()))
        self._check_end()

    def _check_end(self) -> None:
        if self.is_over or not all(task.is_settled for task in self.tasks):
            return
        if not self._number and len(self._resources) > 1:
            self.report(TasksDone())
        else:
            self.finish()

    def finish(self) -> None:
        """All tasks have ended: exit."""
        if not self._number:
            self._debug("all shells report tasks complete", "tasks-complete")
        self._debug(f"exit {self._code}")
        self._finish(self._code << 8)

    # -- commands

    def kill(self, signum: int) -> None:
        """Signal all tasks, if they have been told to run."""
        for task in self.tasks if self._has_run else ():
            task.kill(signum)
            if task.terminal is not None and signum in _FINAL:
                task.terminal.forsake()

    def write(self, ranks: frozenset[int] | None, data: bytes, *, eof: bool) -> None:
        """Standard input for these tasks, or all."""
        for task in self.tasks:
            if ranks is None or task.tags.rank in ranks:
                task.write(data, eof=eof)

    @property
    def is_paused(self) -> bool:
        """Whether the output of tasks is left unread."""
        return self._is_throttled or self._is_backlogged

    def pause(self, paused: bool) -> None:
        """Leave the output of tasks unread, or read on, as far as the broker is concerned."""
        self._is_throttled = paused
        self._check_pause()

    def _backlogged(self, backlogged: bool) -> None:
        """The process has too much to write, or has written most of it."""
        self._is_backlogged = backlogged
        self._check_pause()

    def _check_pause(self) -> None:
        for task in self.tasks:
            task.pause(self.is_paused)

    def exchanged(self, values: dict[str, str]) -> None:
        """All shells are in a PMI barrier: let the tasks go on."""
        if self._pmi is not None:
            self._pmi.exchanged(values)

    # -- end

    def die(self, failure: ShellFailure) -> None:
        """Give up: what runs is killed."""
        if self.is_over or self._fatal_status:
            return
        self._fatal_status = failure.code << 8
        for level, text, component in (*failure.messages, (FATAL, failure.text, failure.component)):
            if hasattr(self, "output"):
                self.output.log(level, text, component)
            else:
                now = self.reactor.clock.time()
                self._send_output("log", 0, log_line(now, self._number, level, text, component))
        self.report(GaveUp(failure.text, failure.wait_status))
        self._finish(self._fatal_status)

    def destroy(self, signum: int = signal.SIGKILL) -> None:
        """Kill everything now, as if the shell were a process that gets this signal."""
        self._finish(self._fatal_status or signum, waits=False)

    def _process_ended(self, status: int) -> None:
        """The process was killed, by a task or by somebody else: that is the end of the shell."""
        self._finish(self._status if self.is_over else status, waits=False)

    def _finish(self, status: int, *, waits: bool = True) -> None:
        """End the tasks, and exit when the output is in its files; at once, unless it ``waits``."""
        if not self.is_over:
            self.is_over = True
            self._status = status
            for task in self.tasks:
                task.destroy()
            if self._pmi is not None:
                self._pmi.close()
            if waits and hasattr(self, "output"):
                self.output.close(self._exit)
                return
        if not waits or not hasattr(self, "output"):
            self._exit()

    def _exit(self) -> None:
        if self._has_exited:
            return
        self._has_exited = True
        if self._process is not None:
            self._processes.give(self._process)
        if self._tmpdir:
            self._directories.remove(self._tmpdir)
        self.report(Exited(self._status))
