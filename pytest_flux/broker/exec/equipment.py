"""What a shell gives to its tasks: environment, directory, limits, processors, places for output and input."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import affinity, environment, options
from pytest_flux.broker.exec.failure import ShellFailure
from pytest_flux.broker.exec.mustache import Tags, TagsOfTask, job_name
from pytest_flux.broker.exec.output import ERROR, NOTICE, WARNING, Output, Send
from pytest_flux.broker.exec.placement import Placement
from pytest_flux.broker.exec.spawn import Program
from pytest_flux.broker.resource import discovery
from pytest_flux.protocol.resource_set import text_of

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes


class Equipment:
    """For the tasks of one shell. ``outfit`` finds out all that can be known before they begin."""

    def __init__(
        self,
        attributes: Attributes,
        rank: int,
        job_id: int,
        jobspec: dict[str, Any],
        placement: Placement,
        tmpdir: str,
        send: Send,
    ) -> None:
        self._attributes = attributes
        self._rank = rank
        self._host = attributes.get("hostname") or ""
        self._job_id = job_id
        self._jobspec = jobspec
        self._options = options.shell_options(jobspec)
        self._placement = placement
        self._tmpdir = tmpdir
        self._shell = placement.ranks.index(rank)
        self._node = placement.resources.nodes[rank]
        self.tasks = [TagsOfTask(task, index) for index, task in enumerate(placement.tasks(self._shell))]
        self._tags = Tags(
            job_id,
            job_name(jobspec),
            placement.ntasks,
            lambda shell: placement.describe(shell, attributes.host_of(placement.ranks[shell])),
            len(placement.ranks),
            tmpdir,
        )
        system = jobspec["attributes"].get("system", {})
        self._cwd = str(system.get("cwd") or os.getcwd())
        self.output = Output(options.output_options(self._options), self._tags, self._shell, self._cwd, send)
        self.input_path: str | None = None
        self._environ: dict[str, str] = {}
        self._limits: list[tuple[int, int]] = []
        self._cpus: list[affinity.Cpus | None] = []

    def outfit(self) -> None:
        """ShellFailure for what cannot be had; smaller things that cannot are said in the job's output."""
        self._tell_adjusted()
        self._enter_directory()
        self._environ = environment.job_environ(
            self._attributes, self._job_id, self._jobspec, self._placement, self._tmpdir
        )
        environment.write_files(self._jobspec, self._tmpdir)
        self._limits, complaints = environment.limits(self._options)
        for complaint in complaints:
            self.output.log(WARNING, complaint, "rlimit")
        self._bind()
        self.input_path = self._find_input()
        self.output.open(self.tasks, running=False)
        if self._shell == 0:
            self.output.redirect(self._placement.ntasks, len(self._placement.ranks))

    def _tell_adjusted(self) -> None:
        before = self._placement.allocated.nodes[self._rank]
        for kind, old, new in (("cores", before.cores, self._node.cores), ("gpus", before.gpus, self._node.gpus)):
            if old != new:
                host = self._host
                self.output.log(WARNING, f"{host}: adjusted {kind} from {text_of(old)} to {text_of(new)}")

    def _enter_directory(self) -> None:
        if os.path.isdir(self._cwd) and os.access(self._cwd, os.X_OK):
            return
        number = errno.ENOENT
        if os.path.exists(self._cwd):
            number = errno.EACCES if os.path.isdir(self._cwd) else errno.ENOTDIR
        host = self._host
        text = f"host {host}: Could not change dir to {self._cwd}: {os.strerror(number)}. Going to /tmp instead"
        self.output.log(ERROR, text)
        self._cwd = "/tmp"

    def _bind(self) -> None:
        ntasks = len(self.tasks)
        chosen = affinity.choice(self._options)
        try:
            self._cpus = affinity.bindings(chosen, self._node, discovery.cores(), ntasks)
            if chosen.tells:
                mine = affinity.processors(self._node, discovery.cores())
                for line in affinity.describe(chosen, mine, self._cpus, [task.rank for task in self.tasks]):
                    self.output.log(NOTICE, line, "cpu-affinity")
        except LookupError:
            # Cores that a configuration has made up cannot be bound to.
            cores = self._placement.describe(self._shell, "")["resources"]["cores"]
            text = f"unable to get cpuset for cores {cores}. Disabling affinity"
            self.output.log(WARNING, text, "cpu-affinity")
            self._cpus = [None] * ntasks
        if chosen.is_dry:
            self._cpus = [None] * ntasks
        everything = discovery.allowed_cpus()
        if not hasattr(os, "sched_setaffinity") or all(cpus == everything for cpus in self._cpus):
            self._cpus = [None] * ntasks

    def _find_input(self) -> str | None:
        if not options.reads_file(self._options):
            return None
        path = options.nested(self._options, "input", "stdin", "path")
        if not isinstance(path, str):
            raise ShellFailure("path for stdin file input not specified", component="input.file")
        full = os.path.join(self._cwd, path)
        if not os.access(full, os.R_OK):
            reason = os.strerror(errno.EACCES if os.path.exists(full) else errno.ENOENT)
            raise ShellFailure(f"error opening input file '{path}': {reason}", component="input.file")
        return full

    def program(self, task: TagsOfTask, pmi: int) -> Program:
        """What is to run as a task. ``pmi`` is the descriptor of its connection, negative for none."""
        rank, index = task
        environ = {
            **self._environ,
            "FLUX_TASK_LOCAL_ID": str(index),
            "FLUX_TASK_RANK": str(rank),
            **affinity.gpu_environ(self._options, self._node, index, len(self.tasks)),
        }
        if "CUDA_VISIBLE_DEVICES" in environ:
            environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        expanded = self._options.get("env-expand")
        for name, value in expanded.items() if isinstance(expanded, dict) else ():
            environ[name] = self._tags.render(str(value), node=self._shell, task=task)
        if pmi >= 0:
            environ |= {"PMI_FD": str(pmi), "PMI_RANK": str(rank), "PMI_SIZE": str(self._placement.ntasks)}
        command = self._jobspec["tasks"][0]["command"]
        return Program(
            [self._tags.render(word, node=self._shell, task=task) for word in command],
            environ,
            self._cwd,
            self._limits,
            self._cpus[index],
            not options.is_set(self._options, "nosetpgrp"),
            "cpu-affinity" in self._options,
        )
