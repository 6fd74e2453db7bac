"""The job shell: all tasks of a job that run at one broker.

It is made ready, then told to run, so that no task of a job begins before all shells can. ``report`` tells the job:

* ``ready``: its tasks could begin; ``running``: they have;
* ``output``: ``{stream, size, text}``, lines for ``guest.output``;
* ``task-exit``: what is known of the first task that has ended; ``pmi``: ``{values}`` at a barrier;
* ``stdin``: ``{io, size}``, what a client sends to tasks; ``raise``: ``{note}``, an exception;
* ``die``: ``{note, wait_status}``: it had to give up; ``exit``: ``{status}``, its wait status, the last word.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import affinity, environment, options
from pytest_flux.broker.exec.directories import Directories
from pytest_flux.broker.exec.failure import ShellFailure
from pytest_flux.broker.exec.mustache import Tags, TagsOfTask, job_name
from pytest_flux.broker.exec.output import ERROR, FATAL, WARNING, Output
from pytest_flux.broker.exec.placement import Placement, place
from pytest_flux.broker.exec.pmi import ShellPmi
from pytest_flux.broker.exec.pmi_values import pmi_values
from pytest_flux.broker.exec.spawn import Program
from pytest_flux.broker.exec.task import Task, exit_code
from pytest_flux.broker.resource import discovery
from pytest_flux.broker.services.lazy import part
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker

Report = Callable[[str, dict[str, Any]], None]


class Shell:
    """See the module. ``jobspec`` has its environment."""

    def __init__(
        self, broker: Broker, job_id: int, jobspec: dict[str, Any], resources: ResourceSet, report: Report
    ) -> None:
        self.broker = broker
        self.reactor = broker.reactor
        self.job_id = job_id
        self.jobspec = jobspec
        self.options = options.shell_options(jobspec)
        self.report = report
        self.tasks: list[Task] = []
        self.is_over = False
        self._told_exit = False
        self._fatal_status = 0
        self._code = 0
        self._pmi: ShellPmi | None = None
        self._cwd = "/"
        self._tmpdir = ""
        self.placement: Placement
        self.output: Output
        self._resources = resources
        self._directories = part(broker, Directories)

    @property
    def rank(self) -> int:
        """The number of this shell in the job; 0 leads."""
        return self.placement.ranks.index(self.broker.rank)

    @property
    def reads_file(self) -> bool:
        """Whether the tasks read a file instead of what clients send."""
        return options.nested(self.options, "input", "stdin", "type") == "file"

    # -- beginning

    def prepare(self) -> None:
        """Do all that can fail before a task begins, and report ``ready``, or ``exit``."""
        try:
            self._tmpdir = self._directories.make(
                self.job_id,
                list(self._resources).index(self.broker.rank),
                self.jobspec["attributes"].get("system", {}).get("environment"),
            )
            self.placement = place(self.jobspec, self._resources, self.options)
            tags = [TagsOfTask(task, index) for index, task in enumerate(self.placement.tasks(self.rank))]
            self._make_output()
            self._enter_directory()
            self._environ = environment.job_environ(
                self.broker, self.job_id, self.jobspec, self.placement, self._tmpdir
            )
            environment.write_files(self.jobspec, self._tmpdir)
            self._limits, complaints = environment.limits(self.options)
            for complaint in complaints:
                self.output.log(WARNING, complaint, "rlimit")
            self._bind(len(tags))
            self._input_path = self._find_input()
            self.output.open(tags, running=False)
            if self.rank == 0:
                self.output.redirect(self.placement.ntasks, len(self.placement.ranks))
            self.tasks = [Task(self, tag) for tag in tags]
            self._start_pmi(len(tags))
        except ShellFailure as failure:
            self.die(failure)
            return
        self.report("ready", {})

    def _make_output(self) -> None:
        placement = self.placement
        tags = Tags(
            self.job_id,
            job_name(self.jobspec),
            placement.ntasks,
            lambda shell: placement.describe(shell, self.broker.host_of(placement.ranks[shell])),
            len(placement.ranks),
            self._tmpdir,
        )
        self._tags = tags
        system = self.jobspec["attributes"].get("system", {})
        self._cwd = str(system.get("cwd") or os.getcwd())
        chosen = options.output_options(self.options)
        self.output = Output(chosen, tags, self.rank, self._cwd, self._send_output)

    def _send_output(self, stream: str, size: int, text: str) -> None:
        self.report("output", {"stream": stream, "size": size, "text": text})

    def _enter_directory(self) -> None:
        try:
            if not os.access(self._cwd, os.X_OK):
                os.chdir(self._cwd)
            elif not os.path.isdir(self._cwd):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            host = self.broker.hostname
            text = f"host {host}: Could not change dir to {self._cwd}: {error.strerror}. Going to /tmp instead"
            self.output.log(ERROR, text)
            self._cwd = "/tmp"

    def _bind(self, ntasks: int) -> None:
        node = self.placement.resources.nodes[self.broker.rank]
        self._node = node
        try:
            self._cpus = affinity.bindings(self.options, node, discovery.cores(), ntasks)
        except LookupError:
            # Cores that a configuration has made up cannot be bound to.
            cores = self.placement.describe(self.rank, "")["resources"]["cores"]
            text = f"unable to get cpuset for cores {cores}. Disabling affinity"
            self.output.log(WARNING, text, "cpu-affinity")
            self._cpus = [None] * ntasks
        everything = discovery.allowed_cpus()
        if not hasattr(os, "sched_setaffinity") or all(cpus == everything for cpus in self._cpus):
            self._cpus = [None] * ntasks

    def _find_input(self) -> str | None:
        if not self.reads_file:
            return None
        path = options.nested(self.options, "input", "stdin", "path")
        if not isinstance(path, str):
            raise ShellFailure("path for stdin file input not specified", component="input.file")
        full = os.path.join(self._cwd, path)
        if not os.access(full, os.R_OK):
            reason = os.strerror(errno.EACCES if os.path.exists(full) else errno.ENOENT)
            raise ShellFailure(f"error opening input file '{path}': {reason}", component="input.file")
        return full

    def _start_pmi(self, ntasks: int) -> None:
        wanted = str(self.options.get("pmi", "simple")).split(",")
        if not {"simple", "pmi1", "pmi2"} & set(wanted) or not ntasks:
            return
        alone = len(self.placement.ranks) == 1
        self._pmi = ShellPmi(
            self.reactor,
            size=self.placement.ntasks,
            local_size=ntasks,
            name=f58(self.job_id),
            values=pmi_values(self.broker, self.placement.taskmap, self.options),
            exchange=None if alone else lambda values: self.report("pmi", {"values": values}),
            abort=lambda note: self.report("raise", {"note": note}),
            failed=self.die,
        )

    # -- running

    def run(self) -> None:
        """Start the tasks and report ``running``."""
        if self.is_over:
            return
        try:
            self.output.open([task.tags for task in self.tasks], running=True)
            for task in self.tasks:
                self._start(task)
        except ShellFailure as failure:
            self.die(failure)
            return
        self.report("running", {})
        self._check_end()

    def _start(self, task: Task) -> None:
        rank, index = task.tags
        environ = {
            **self._environ,
            "FLUX_TASK_LOCAL_ID": str(index),
            "FLUX_TASK_RANK": str(rank),
            **affinity.gpu_environ(self.options, self._node, index, len(self.tasks)),
        }
        if "CUDA_VISIBLE_DEVICES" in environ:
            environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        expanded = self.options.get("env-expand")
        for name, value in expanded.items() if isinstance(expanded, dict) else ():
            environ[name] = self._tags.render(str(value), node=self.rank, task=task.tags)
        argv = [
            self._tags.render(word, node=self.rank, task=task.tags) for word in self.jobspec["tasks"][0]["command"]
        ]
        connection = self._pmi.connect(rank) if self._pmi is not None else None
        inherited = -1
        if connection is not None:
            inherited = connection.fileno()
            environ |= {
                "PMI_FD": str(inherited),
                "PMI_RANK": str(rank),
                "PMI_SIZE": str(self.placement.ntasks),
            }
        group = not options.is_set(self.options, "nosetpgrp")
        first = "cpu-affinity" in self.options
        program = Program(argv, environ, self._cwd, self._limits, self._cpus[index], group, first)
        try:
            task.start(program, self._input_path, inherited)
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            code = {errno.ENOENT: 127, errno.EACCES: 126, errno.EPERM: 126}.get(number or 0, 1)
            where = f"task {rank} (host {self.broker.hostname})"
            text = f"{where}: start failed: {argv[0]}: {os.strerror(number or 0)}"
            raise ShellFailure(text, code) from None
        finally:
            if connection is not None:
                connection.close()

    def task_ended(self, task: Task) -> None:
        """See TaskOwner."""
        assert task.status is not None
        self._code = max(self._code, exit_code(task.status))
        if self._pmi is not None:
            self._pmi.disconnect(task.tags.rank)
        if not self._told_exit:
            self._told_exit = True
            self.report("task-exit", task.info())
        self._check_end()

    def _check_end(self) -> None:
        if not self.is_over and all(task.status is not None and not task.is_open for task in self.tasks):
            self._finish(self._code << 8)

    # -- what others have to say

    def kill(self, signum: int) -> None:
        """Signal all tasks."""
        for task in self.tasks:
            task.kill(signum)

    def write(self, ranks: frozenset[int] | None, data: bytes, *, eof: bool) -> None:
        """Standard input for these tasks, or all."""
        for task in self.tasks:
            if ranks is None or task.tags.rank in ranks:
                task.write(data, eof=eof)

    def exchanged(self, values: dict[str, str]) -> None:
        """All shells are in a PMI barrier."""
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
        self.report("die", {"note": failure.text, "wait_status": failure.wait_status})
        self._finish(self._fatal_status)

    def destroy(self) -> None:
        """Kill everything, now: as if the shell were a process that gets SIGKILL."""
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
        self.report("exit", {"status": status})
