"""What a shell gives to its tasks: environment, directory, files, limits, processors, output and input."""

from __future__ import annotations

import base64
import errno
import json
import os
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec import affinity, options
from pytest_flux.broker.exec.mustache import Tags, TagsOfTask, job_name
from pytest_flux.broker.exec.options import ERROR, NOTICE, WARNING, ShellFailure, nested
from pytest_flux.broker.exec.output import Output, Send
from pytest_flux.broker.exec.placement import Placement
from pytest_flux.broker.exec.shell_process import ShellProcess
from pytest_flux.broker.resource import discovery
from pytest_flux.protocol.fluid import F58_VARIABLES, f58_for
from pytest_flux.protocol.resource_set import text_of
from pytest_flux.reactor.clock import Clock
from pytest_flux.reactor.program import Program

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes

_ALIASES = {"ofile": "nofile"}


class Equipment:
    """What the tasks of one shell get. ``outfit`` finds out everything that can be known before they begin."""

    def __init__(
        self,
        clock: Clock,
        attributes: Attributes,
        rank: int,
        job_id: int,
        jobspec: dict[str, Any],
        placement: Placement,
        tmpdir: str,
        send: Send,
        process: Callable[[], ShellProcess],
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
            job_text(job_id, jobspec),
            job_name(jobspec),
            placement.ntasks,
            lambda shell: placement.describe(shell, attributes.host_of(placement.ranks[shell])),
            len(placement.ranks),
            tmpdir,
        )
        system = jobspec["attributes"].get("system", {})
        self._cwd = str(system.get("cwd") or os.getcwd())
        self.output = Output(
            clock, options.output_options(self._options), self._tags, self._shell, self._cwd, send, process
        )
        self.input_path: str | None = None
        self._environ: dict[str, str] = {}
        self._limits: list[tuple[int, int]] = []
        self.cpus: list[affinity.Cpus | None] = []

    def outfit(self) -> None:
        """Prepare what tasks get. ShellFailure; minor problems are reported in the job's output."""
        self._tell_adjusted()
        self._enter_directory()
        self._environ = job_environ(self._attributes, self._job_id, self._jobspec, self._placement, self._tmpdir)
        if "TMPDIR" in self._environ and find_tmpdir(self._jobspec) != self._environ["TMPDIR"]:
            text = f"Unable to create TMPDIR={self._environ['TMPDIR']}, resetting TMPDIR=/tmp"
            self.output.log(WARNING, text, "tmpdir")
            self._environ["TMPDIR"] = "/tmp"
        write_files(self._jobspec, self._tmpdir)
        self._limits, complaints = limits(self._options)
        for complaint in complaints:
            self.output.log(WARNING, complaint, "rlimit")
        self._bind()
        self.input_path = self._find_input()

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
        self._cwd = self.output.directory = "/tmp"

    def _bind(self) -> None:
        ntasks = len(self.tasks)
        chosen = affinity.choice(self._options)
        try:
            self.cpus = affinity.bindings(chosen, self._node, discovery.cores(), ntasks)
            if chosen.tells:
                mine = affinity.processors(self._node, discovery.cores())
                for line in affinity.describe(chosen, mine, self.cpus, [task.rank for task in self.tasks]):
                    self.output.log(NOTICE, line, "cpu-affinity")
        except LookupError:
            # A configuration can have cores that this machine does not have.
            cores = self._placement.describe(self._shell, "")["resources"]["cores"]
            text = f"unable to get cpuset for cores {cores}. Disabling affinity"
            self.output.log(WARNING, text, "cpu-affinity")
            self.cpus = [None] * ntasks
        if chosen.is_dry:
            self.cpus = [None] * ntasks
        everything = discovery.allowed_cpus()
        if not hasattr(os, "sched_setaffinity") or all(cpus == everything for cpus in self.cpus):
            self.cpus = [None] * ntasks

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
        """The program of a task. ``pmi`` is the number of its connection there, negative if it has none."""
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
            None if options.is_set(self._options, "nosetpgrp") else 0,
            self._limits,
        )


def job_text(job_id: int, jobspec: dict[str, Any]) -> str:
    """A job's id as its shell writes it: in the locale of the broker, and in ASCII if broker or job ask for that."""
    own = {name: os.environ[name] for name in F58_VARIABLES if name in os.environ}
    if nested(jobspec, "attributes", "system", "environment", "FLUX_F58_FORCE_ASCII") is not None:
        own["FLUX_F58_FORCE_ASCII"] = ""
    return f58_for(job_id, own)


def find_tmpdir(jobspec: dict[str, Any]) -> str:
    """The TMPDIR of a job, which is made if it is not there; /tmp if it has none or it cannot be made."""
    wanted = nested(jobspec, "attributes", "system", "environment", "TMPDIR")
    if isinstance(wanted, str):
        try:
            os.makedirs(wanted, mode=0o700, exist_ok=True)
        except OSError:
            return "/tmp"
        return wanted
    return "/tmp"


def job_environ(
    attributes: Attributes, job_id: int, jobspec: dict[str, Any], placement: Placement, tmpdir: str
) -> dict[str, str]:
    """The environment of all tasks of a shell: the jobspec's, and the job's own (flux-environment(7))."""
    given = jobspec["attributes"].get("system", {}).get("environment")
    environ = {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}
    environ.pop("FLUX_PROXY_REMOTE", None)
    text = job_text(job_id, jobspec)
    path = attributes.get("jobid-path") or "/"
    environ |= {
        "FLUX_URI": attributes.get("local-uri") or "",
        "FLUX_KVS_NAMESPACE": f"job-{job_id}",
        "FLUX_JOB_ID_PATH": f"{'' if path == '/' else path}/{text}",
        "FLUX_JOB_SIZE": str(placement.ntasks),
        "FLUX_JOB_NNODES": str(len(placement.ranks)),
        "FLUX_JOB_ID": text,
        "FLUX_JOB_TMPDIR": tmpdir,
        "FLUX_TERMINUS_SESSION": "0",
    }
    if "HOSTNAME" in environ:
        environ["HOSTNAME"] = attributes.get("hostname") or ""
    if nested(jobspec, "attributes", "system", "shell", "options", "mpi") != "none":
        # Open MPI puts shared memory there, which jobs of one node must not share.
        environ["OMPI_MCA_btl_vader_backing_directory"] = tmpdir
    return environ


def write_files(jobspec: dict[str, Any], directory: str) -> None:
    """Write the files of a jobspec (``attributes.system.files``, RFC 37) into the job's directory. ShellFailure."""
    files = jobspec["attributes"].get("system", {}).get("files")
    if not isinstance(files, dict):
        return
    for name, file in files.items():
        try:
            _write_file(os.path.join(directory, str(name)), file)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ShellFailure(f"shell_init: {name}: {error}") from None


def _write_file(path: str, file: dict[str, Any]) -> None:
    mode = int(file.get("mode", 0o100600))
    data, encoding = file.get("data", ""), file.get("encoding")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if mode & 0o170000 == 0o120000:
        os.symlink(data, path)
        return
    if mode & 0o170000 == 0o040000:
        os.makedirs(path, exist_ok=True)
        return
    if encoding == "base64":
        content = base64.b64decode(data, validate=True)
    elif encoding in (None, "utf-8"):
        content = data.encode() if isinstance(data, str) else json.dumps(data).encode()
    else:
        raise ValueError(f"encoding {encoding} is not known")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o7777 or 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(content)


def limits(options: dict[str, Any]) -> tuple[list[tuple[int, int]], list[str]]:
    """The soft limits that differ from ours, and complaints about those that cannot be set. ShellFailure."""
    changes, complaints = [], []
    wanted = options.get("rlimit")
    for name, value in wanted.items() if isinstance(wanted, dict) else ():
        kind = getattr(resource, f"RLIMIT_{_ALIASES.get(str(name), str(name)).upper()}", None)
        if kind is None or not isinstance(value, int) or isinstance(value, bool):
            raise ShellFailure(f"invalid shell option rlimit.{name}={value}", component="rlimit")
        soft, hard = resource.getrlimit(kind)
        value = resource.RLIM_INFINITY if value < 0 else value
        above = value == resource.RLIM_INFINITY or value > hard
        if hard != resource.RLIM_INFINITY and above and value != hard:
            complaints.append(f"{name} exceeds current max, raising value to hard limit")
            value = hard
        if value != soft:
            changes.append((kind, value))
    return changes, complaints
