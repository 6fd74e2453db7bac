"""`flux job list`, `info`, `taskmap` and others: answer questions about jobs."""

from __future__ import annotations

import errno
import json
import os
import sys

from pytest_flux.cli.command import Command, CommandError, Context, explaining, reason
from pytest_flux.cli.commands.jobs.common import ANY_USER, parse_id, parse_states, user_option
from pytest_flux.client.clock import instance_time
from pytest_flux.client.job_follow import EXEC
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import encode_fluid, f58, parse_fluid
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.job_state import ACTIVE, INACTIVE, PENDING, RUN, RUNNING, parse_state
from pytest_flux.protocol.taskmap import Taskmap, decode_taskmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

_COUNT = Option("count", "c", "N", usage="Limit output to N jobs")
LIST_OPTIONS = (
    _COUNT,
    Option("states", "s", "STATES", split=True, usage="List jobs in specific states"),
    Option("user", "u", "USER", usage='Limit output to specific user. Specify "all" for all users.'),
    Option("all-user", "a", usage="List my jobs, regardless of state"),
    Option("all", "A", usage="List jobs for all users, regardless of state"),
)
INACTIVE_OPTIONS = (_COUNT, Option("since", "s", "T", usage="Only those that became inactive since this time"))
IDS_OPTIONS = (Option("wait-state", "W", "STATE", usage="Wait until the jobs have reached this state"),)


def list_jobs(options: Options, context: Context) -> int:
    """Print jobs."""
    _begin(context, right_number=not options.arguments)
    states = PENDING | RUNNING
    if options.has("all-user") or options.has("all"):
        states = ACTIVE | INACTIVE
    elif options.has("states"):
        states = parse_states(options.all("states"))
    userid = user_option(options)
    if options.has("all"):
        userid = ANY_USER
    # flux-core, too, sends the number that stands for all users as -1.
    constraint = {"and": [{"userid": [-1 if userid == ANY_USER else userid]}, {"states": [states]}]}
    return _print_jobs(context, constraint, options.integer("count", 0), 0.0)


def list_inactive(options: Options, context: Context) -> int:
    """Print inactive jobs."""
    _begin(context, right_number=not options.arguments)
    try:
        since = float(options.get("since") or 0.0)
    except ValueError:
        raise CommandError("Option 'since' requires a floating point argument") from None
    return _print_jobs(context, {"states": [INACTIVE]}, options.integer("count", 0), since)


def list_ids(options: Options, context: Context) -> int:
    """Print the jobs with these ids."""
    _begin(context, right_number=bool(options.arguments))
    try:
        state = parse_state(options.get("wait-state") or "depend")
    except ValueError:
        raise CommandError("invalid job state specified") from None
    with context.open() as flux:
        requests = [{"id": parse_id(name), "attrs": ["all"], "state": state} for name in options.arguments]
        for call in [flux.rpc("job-list.list-id", request) for request in requests]:
            with explaining("flux job-list.list-d"):
                print(json.dumps(call.get()["job"], ensure_ascii=False))
    return 0


def stats(options: Options, context: Context) -> int:
    """Print how many jobs there are."""
    del options
    with context.open() as flux, explaining("stats"):
        print(flux.rpc("job-list.job-stats").get_text())
    return 0


def _begin(context: Context, *, right_number: bool) -> None:
    if sys.stdout.isatty():
        sys.stderr.write("This is not the command you are looking for. Try flux-jobs(1).\n")
        raise SystemExit(1)
    if not right_number:
        raise context.command.usage_error()


def _print_jobs(context: Context, constraint: dict[str, Any], count: int, since: float) -> int:
    with context.open() as flux, explaining("flux job-list.list"):
        jobs = flux.jobs.list(constraint=constraint, max_entries=count, since=since)
    sys.stdout.writelines(json.dumps(job, ensure_ascii=False) + "\n" for job in jobs)
    return 0


_CURRENT = 2
_INFO_USAGE = """\
Usage: flux job info id key
some useful keys are:
  J                    - signed jobspec
  R                    - allocated resources
  eventlog             - primary job eventlog
  jobspec              - job specification
  guest.exec.eventlog  - execution eventlog
  guest.input          - job input log
  guest.output         - job output log
Use flux job info -h to list available options
"""
INFO_OPTIONS = (
    Option("original", "o", usage='For key "jobspec", return the original submitted jobspec'),
    Option("base", "b", usage='For key "jobspec" or "R", do not apply updates from eventlog'),
)
_MAX_SECONDS = 2**32 - 1


def convert(options: Options, context: Context) -> int:
    """Print ids in another form."""
    del context
    form = options.get("to") or "dec"
    words = options.arguments or [line.strip() for line in sys.stdin]
    for word in words:
        try:
            jobid = parse_fluid(word)
        except ValueError:
            raise CommandError(f"{word}: malformed input") from None
        try:
            print(encode_fluid(jobid, form))
        except ValueError:
            raise CommandError(f"Unknown to={form}") from None
    return 0 if words else 1


def info(options: Options, context: Context) -> int:
    """Print a value from the job's directory."""
    if len(options.arguments) != 2:
        sys.stderr.write(_INFO_USAGE)
        return 1
    name, key = options.arguments
    jobid = parse_id(name)
    with context.open() as flux:
        print(_lookup(flux, jobid, key, options))
    return 0


def _lookup(flux: Flux, jobid: int, key: str, options: Options) -> str:
    if options.has("original") and key == "jobspec":
        from pytest_flux.protocol.signed_jobspec import unwrap_none

        try:
            return unwrap_none(flux.jobs.lookup(jobid, "J")["J"])[0].decode("utf-8", "surrogateescape")
        except ValueError as error:
            raise CommandError(f"Failed to unwrap J to get jobspec: {error}") from None
    flags = _CURRENT if key in ("R", "jobspec") and not options.has("base") else 0
    return str(flux.jobs.lookup(jobid, key, flags=flags)[key])


def last(options: Options, context: Context) -> int:
    """Print the ids of our latest jobs."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    text = options.arguments[0] if options.arguments else "[:1]"
    if "[" not in text:
        try:
            text = f"[:{int(text)}]"
        except ValueError:
            raise context.command.usage_error() from None
    with context.open() as flux:
        ids = flux.jobs.last(text)
    if not ids:
        raise CommandError("job history is empty")
    sys.stdout.writelines(f"{f58(jobid)}\n" for jobid in ids)
    return 0


def namespace(options: Options, context: Context) -> int:
    """Print the names of the namespaces of jobs."""
    del context
    for word in options.arguments or (line.strip() for line in sys.stdin):
        print(f"job-{parse_id(word)}")
    return 0


def timeleft(options: Options, context: Context) -> int:
    """Print how long a job, or this instance, may still run."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    name = options.arguments[0] if options.arguments else os.environ.get("FLUX_JOB_ID")
    with context.open() as flux:
        expiration = _instance_expiration(flux) if name is None else _job_expiration(flux, name)
        now = instance_time(flux)
    left = float("inf") if expiration == 0 else max(expiration - now, 0.0)
    if options.has("human"):
        from pytest_flux.protocol.duration import format_duration

        print(format_duration(left))
    elif left == float("inf"):
        print(_MAX_SECONDS)
    else:
        print(max(int(left), 1) if left > 0 else 0)
    return 0


def _instance_expiration(flux: Flux) -> float:
    try:
        status = flux.rpc("resource.status", nodeid=0).get()
        return float(status["R"]["execution"].get("expiration", 0.0))
    except (FluxError, KeyError):
        raise CommandError("failed to get instance expiration") from None


def _job_expiration(flux: Flux, name: str) -> float:
    import errno

    try:
        jobid = parse_fluid(name)
    except ValueError:
        raise CommandError(f"failed to parse jobid {name}") from None
    try:
        job = flux.jobs.get(jobid, ("expiration", "state"))
    except FluxError as error:
        if error.errnum == errno.ENOENT:
            raise CommandError(f"{name}: no such jobid") from None
        raise CommandError(f"flux_job_list_id: {name}: {reason(error)}") from None
    if job["state"] & PENDING:
        raise CommandError(f"job {name} has not started")
    # A time in the past: nothing is left.
    return float(job.get("expiration", 0.0)) if job["state"] == RUN else 1.0


TASKMAP_OPTIONS = (
    Option("taskids", argument="NODEID", usage="Print idset of tasks on node NODEID"),
    Option("ntasks", argument="NODEID", usage="Print number of tasks on node NODEID"),
    Option("nodeid", argument="TASKID", usage="Print the number of the node on which a task is"),
    Option("hostname", argument="TASKID", usage="Print the hostname on which a task is"),
    Option("to", argument="FORMAT", usage="Print it in another form: raw, pmi, hosts or multiline"),
)


def print_taskmap(options: Options, context: Context) -> int:
    """Print a task map, or an answer from it."""
    if not options.arguments:
        raise context.command.usage_error()
    text = options.arguments[0]
    try:
        jobid = parse_fluid(text)
    except ValueError:
        try:
            print(_describe_taskmap(options, decode_taskmap(text), None))
        except ValueError as error:
            raise CommandError(f"error decoding taskmap: {error}") from None
        return 0
    with context.open() as flux:
        taskmap = _taskmap_of(flux, jobid)
        wants_hosts = options.has("hostname") or options.get("to") == "hosts"
        print(_describe_taskmap(options, taskmap, _hosts_of(flux, jobid) if wants_hosts else None))
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


def _describe_taskmap(options: Options, taskmap: Taskmap, hosts: list[str] | None) -> str:
    for name in ("taskids", "ntasks", "nodeid", "hostname"):
        if options.has(name):
            return _describe_place(name, options.integer(name, -1), taskmap, hosts)
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


def _describe_place(name: str, number: int, taskmap: Taskmap, hosts: list[str] | None) -> str:
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


COMMANDS = (
    Command("flux-job list", list_jobs, usage="[OPTIONS]", options=LIST_OPTIONS, permute=True),
    Command("flux-job list-inactive", list_inactive, usage="[OPTIONS]", options=INACTIVE_OPTIONS, permute=True),
    Command("flux-job list-ids", list_ids, usage="[OPTIONS] ID [ID ...]", options=IDS_OPTIONS, permute=True),
    Command("flux-job stats", stats, usage=""),
    Command(
        "flux-job id",
        convert,
        usage="[OPTIONS] [id ...]",
        options=(Option("to", "t", "dec|kvs|hex|dothex|f58", usage="Convert jobid to specified form"),),
        permute=True,
    ),
    Command("flux-job info", info, usage="id key", options=INFO_OPTIONS, permute=True),
    Command("flux-job last", last, usage="SLICE"),
    Command("flux-job namespace", namespace, usage="[id ...]"),
    Command(
        "flux-job timeleft",
        timeleft,
        usage="[JOBID]",
        options=(Option("human", "H", usage="Output in Flux Standard Duration instead of seconds."),),
        permute=True,
    ),
    Command("flux-job taskmap", print_taskmap, usage="[OPTION] JOBID|TASKMAP", options=TASKMAP_OPTIONS, permute=True),
)
