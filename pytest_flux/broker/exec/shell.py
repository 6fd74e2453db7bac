"""The job shell: all tasks of a job that run at one broker.

It prepares first and runs when it is told to, so that no task of a job begins before all shells can start theirs.
``report`` gets what the job has to know: see messages.py.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import options
from pytest_flux.broker.exec.equipment import Equipment
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
)
from pytest_flux.broker.exec.options import ShellFailure
from pytest_flux.broker.exec.output import FATAL, Output, log_line
from pytest_flux.broker.exec.placement import Placement, place
from pytest_flux.broker.exec.pmi import ShellPmi, pmi_name, pmi_values
from pytest_flux.broker.exec.task import Task
from pytest_flux.broker.exec.terminal import Terminal, TerminalOptions, terminal_options
from pytest_flux.protocol.resource_set import ResourceSet
from pytest_flux.protocol.wait_status import exit_code

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.exec.directories import Directories
    from pytest_flux.reactor.reactor import Reactor

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
        self.tasks: list[Task] = []
        self.is_over = False
        self.is_paused = False
        self._resources = resources
        self._placed = placement
        self._directories = directories
        self._tmpdir = ""
        self._pmi: ShellPmi | None = None
        self._told_exit = False
        self._code = 0
        self._fatal_status = 0

    @property
    def _number(self) -> int:
        return list(self._resources).index(self._rank)

    # -- beginning

    def prepare(self) -> None:
        """Do everything that can fail before a task begins, then report Ready, or Exited."""
        shell = self._number
        environ = self.jobspec["attributes"].get("system", {}).get("environment")
        try:
            self._tmpdir = self._directories.make(self.job_id, shell, environ)
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
            )
            self.output = self._equipment.output
            options.check_options(self.options)
            self._terminal_options = terminal_options(self.options)
            self._equipment.outfit()
            self.tasks = [Task(self, task) for task in self._equipment.tasks]
            for task in self.tasks:
                task.terminal = self._terminal_of(task)
            self._start_pmi(len(self.tasks))
        except ShellFailure as failure:
            self.die(failure)
            return
        self.report(Ready())

    def _send_output(self, stream: str, size: int, text: str) -> None:
        self.report(OutputLines(stream, size, text))

    def _start_pmi(self, ntasks: int) -> None:
        wanted = str(self.options.get("pmi", "simple")).split(",")
        if not {"simple", "pmi1", "pmi2"} & set(wanted) or not ntasks:
            return
        alone = len(self.placement.ranks) == 1
        self._pmi = ShellPmi(
            self.reactor,
            size=self.placement.ntasks,
            local_size=ntasks,
            name=pmi_name(self.job_id, self._resources.starttime, self.jobspec["tasks"][0]["command"][0]),
            values=pmi_values(self.attributes, self.placement.taskmap, self.options),
            exchange=None if alone else lambda values: self.report(PmiBarrier(values)),
            abort=lambda note: self.report(ExceptionNote(note)),
            failed=self.die,
        )

    # -- running

    def run(self) -> None:
        """Start the tasks and report Running."""
        if self.is_over:
            return
        try:
            self.output.open([task.tags for task in self.tasks], running=True)
            for task in self.tasks:
                self._start(task)
        except ShellFailure as failure:
            self.die(failure)
            return
        self.report(Running())
        self._check_end()

    def _start(self, task: Task) -> None:
        connection = self._pmi.connect(task.tags.rank) if self._pmi is not None else None
        inherited = [connection.fileno()] if connection is not None else []
        program = self._equipment.program(task.tags, inherited[0] if inherited else -1)
        try:
            task.start(program, self._equipment.input_path, inherited)
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            code = {errno.ENOENT: 127, errno.EACCES: 126, errno.EPERM: 126}.get(number or 0, 1)
            where = f"task {task.tags.rank} (host {self.attributes.get('hostname')})"
            text = f"{where}: start failed: {program.argv[0]}: {os.strerror(number or 0)}"
            raise ShellFailure(text, code) from None
        finally:
            if connection is not None:
                connection.close()

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
        if self._pmi is not None:
            self._pmi.disconnect(task.tags.rank)
        if not self._told_exit:
            self._told_exit = True
            self.report(TaskExit(task.info()))
        self._check_end()

    def _check_end(self) -> None:
        if not self.is_over and all(task.is_settled for task in self.tasks):
            self._finish(self._code << 8)

    # -- commands

    def kill(self, signum: int) -> None:
        """Signal all tasks."""
        for task in self.tasks:
            task.kill(signum)
            if task.terminal is not None and signum in _FINAL:
                task.terminal.forsake()

    def write(self, ranks: frozenset[int] | None, data: bytes, *, eof: bool) -> None:
        """Standard input for these tasks, or all."""
        for task in self.tasks:
            if ranks is None or task.tags.rank in ranks:
                task.write(data, eof=eof)

    def pause(self, paused: bool) -> None:
        """Leave the output of tasks unread, or read on."""
        self.is_paused = paused
        for task in self.tasks:
            task.pause(paused)

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
        if hasattr(self, "output"):
            self.output.log(FATAL, failure.text, failure.component)
        else:
            now = self.reactor.clock.time()
            self._send_output("log", 0, log_line(now, self._number, FATAL, failure.text, failure.component))
        self.report(GaveUp(failure.text, failure.wait_status))
        self._finish(self._fatal_status)

    def destroy(self) -> None:
        """Kill everything now, as if the shell were a process that gets SIGKILL."""
        self._finish(self._fatal_status or signal.SIGKILL)

    def _finish(self, status: int) -> None:
        if self.is_over:
            return
        self.is_over = True
        for task in self.tasks:
            task.destroy()
        if self._pmi is not None:
            self._pmi.close()
        if hasattr(self, "output"):
            self.output.close()
        if self._tmpdir:
            self._directories.remove(self._tmpdir)
        self.report(Exited(status))
