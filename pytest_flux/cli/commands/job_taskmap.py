"""`flux job taskmap`: which task of a job is where."""

from __future__ import annotations

import errno
import json

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.client.job_follow import EXEC
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.taskmap import Taskmap, decode_taskmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

OPTIONS = (
    Option("taskids", argument="NODEID", usage="Print idset of tasks on node NODEID"),
    Option("ntasks", argument="NODEID", usage="Print number of tasks on node NODEID"),
    Option("nodeid", argument="TASKID", usage="Print the number of the node on which a task is"),
    Option("hostname", argument="TASKID", usage="Print the hostname on which a task is"),
    Option("to", argument="FORMAT", usage="Print it in another form: raw, pmi, hosts or multiline"),
)


def run(options: Options, context: Context) -> int:
    """Print a task map, or something that it tells."""
    if not options.arguments:
        raise context.command.usage_error()
    text = options.arguments[0]
    try:
        jobid = parse_fluid(text)
    except ValueError:
        try:
            print(_answer(options, decode_taskmap(text), None))
        except ValueError as error:
            raise CommandError(f"error decoding taskmap: {error}") from None
        return 0
    with context.open() as flux:
        taskmap = _taskmap_of(flux, jobid)
        wants_hosts = options.has("hostname") or options.get("to") == "hosts"
        print(_answer(options, taskmap, _hosts_of(flux, jobid) if wants_hosts else None))
    return 0


def _taskmap_of(flux: Flux, jobid: int) -> Taskmap:
    try:
        for event in flux.jobs.watch(jobid, EXEC):
            if event["name"] == "shell.start":
                return decode_taskmap(json.dumps(event["context"]["taskmap"]))
    except FluxError as error:
        if error.errnum == errno.ENOENT:
            raise CommandError("Unable to get job taskmap: no such job") from None
        raise CommandError(f"waiting for shell.start event: {reason(error)}") from None
    raise CommandError("No taskmap found for job")


def _hosts_of(flux: Flux, jobid: int) -> list[str]:
    R = json.loads(flux.jobs.lookup(jobid, "R")["R"])  # noqa: N806, the name it has
    return [host for text in R["execution"]["nodelist"] for host in decode_hostlist(text)]


def _answer(options: Options, taskmap: Taskmap, hosts: list[str] | None) -> str:
    for name in ("taskids", "ntasks", "nodeid", "hostname"):
        if options.has(name):
            return _about(name, options.integer(name, -1), taskmap, hosts)
    form = options.get("to")
    if form == "hosts":
        if hosts is None:
            raise CommandError("taskmap: can't use --to=hosts without a jobid")
        nodes = range(taskmap.nnodes)
        return "\n".join(f"{hosts[node]}: {encode_idset(taskmap.tasks_of(node))}" for node in nodes)
    if form == "multiline":
        return "\n".join(f"{task}: {taskmap.node_of(task)}" for task in range(taskmap.ntasks))
    encoders = {None: taskmap.encode_json, "raw": taskmap.encode_raw, "pmi": taskmap.encode_pmi}
    if form not in encoders:
        raise CommandError(f"invalid value --to={form}")
    return encoders[form]()


def _about(name: str, number: int, taskmap: Taskmap, hosts: list[str] | None) -> str:
    if name in ("taskids", "ntasks"):
        if not 0 <= number < taskmap.nnodes:
            what = "No taskids for" if name == "taskids" else "failed to get task count for"
            raise CommandError(f"{what} node {number}: No such file or directory")
        tasks = taskmap.tasks_of(number)
        return encode_idset(tasks) if name == "taskids" else str(len(tasks))
    if not 0 <= number < taskmap.ntasks:
        raise CommandError(f"failed to get nodeid for task {number}: No such file or directory")
    node = taskmap.node_of(number)
    if name == "nodeid":
        return str(node)
    if hosts is None:
        raise CommandError("taskmap: can't use --hostname without a jobid")
    return hosts[node]


COMMANDS = (Command("flux-job taskmap", run, usage="[OPTION] JOBID|TASKMAP", options=OPTIONS, permute=True),)
