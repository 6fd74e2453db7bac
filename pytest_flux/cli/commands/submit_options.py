"""The options of the commands that submit jobs: flux-core's, in one table for each kind of them."""

from __future__ import annotations

from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COMMON = (
    Option("bank", "B", "BANK", usage="Submit to this bank"),
    Option("queue", "q", "NAME", usage="Submit to this queue"),
    Option("time-limit", "t", "MIN|FSD", usage="Time limit: minutes, or with a unit, as 30s, 2d, 1.5h"),
    Option("urgency", argument="N", usage="Urgency: 0 to 31, hold, default (16), expedite"),
    Option("job-name", argument="NAME", usage="A name for the job"),
    Option(
        "setopt", "o", "OPT[=VAL]", usage="Set an option of the job shell, to 1 unless told; ^OPT=FILE reads JSON"
    ),
    Option("setattr", "S", "ATTR[=VAL]", usage="Set an attribute of the job, in the same way"),
    Option("add-file", argument="[NAME=]PATH", usage="Give the job a file, which it finds in {{tmpdir}}"),
    Option("dependency", argument="URI", usage="Start after another job or condition (RFC 26)"),
    Option("requires", argument="CONSTRAINT", usage="Run only on nodes like this (RFC 35)"),
    Option("begin-time", argument="+FSD|TIME", usage="Do not start before"),
    Option(
        "env", argument="RULE", usage="NAME=VALUE sets, PATTERN takes from here, -PATTERN removes, ^FILE reads rules"
    ),
    Option("env-remove", argument="PATTERN", usage="Remove variables from the environment"),
    Option("env-file", argument="FILE", usage="Read rules for the environment from a file"),
    Option("rlimit", argument="RULE", usage="NAME takes our limit, NAME=VALUE sets it, -PATTERN leaves it"),
    Option("input", argument="FILENAME", usage="Read stdin from a file"),
    Option("output", argument="FILENAME", usage="Write stdout to a file"),
    Option("error", argument="FILENAME", usage="Write stderr to a file"),
    Option("unbuffered", "u", usage="Do not buffer input and output"),
    Option("label-io", "l", usage="Begin each line of output with the task's rank"),
    Option("cwd", argument="DIRECTORY", usage="Run in this directory"),
    Option("flags", argument="FLAGS", usage="Flags of the submission: debug, waitable, novalidate"),
    Option("signal", argument="[SIG][@TIME]", usage="Send a signal this long before the time limit (USR1@60s)"),
    Option("dry-run", usage="Print the jobspec only"),
    Option("quiet", usage="Do not print the job's id"),
    Option("list-plugins", hidden=True),
    Option("debug-emulate", hidden=True),
    Option("dry", hidden=True),
    Option("require", argument="CONSTRAINT", hidden=True),
)
TASKS = (
    Option("taskmap", argument="URI", usage="Place tasks: block, cyclic, cyclic:N, manual:TASKMAP"),
    Option("nodes", "N", "N", usage="Number of nodes"),
    Option("exclusive", "x", usage="Whole nodes, with --nodes"),
    Option("ntasks", "n", "N", usage="Number of tasks"),
    Option("cores-per-task", "c", "N", usage="Cores for each task"),
    Option("gpus-per-task", "g", "N", usage="GPUs for each task"),
    Option("cores", argument="N", usage="Number of cores in all; not with options for each task"),
    Option("tasks-per-node", argument="N", usage="So many tasks on each node"),
    Option("tasks-per-core", argument="N", usage="So many tasks on each core"),
    Option("gpus-per-node", argument="N", usage="So many GPUs on each node"),
    Option("verbose", "v", usage="Say more on stderr; may be repeated"),
)
BULK = (
    Option(
        "cc", argument="IDSET", usage="A job for each of these, which know theirs as FLUX_JOB_CC; {cc} stands for it"
    ),
    Option("bcc", argument="IDSET", usage="The same without FLUX_JOB_CC"),
    Option("wait-event", argument="NAME", usage="Wait for this event of each job"),
    Option("wait", usage="Wait for all jobs; the exit code is the highest"),
    Option("watch", usage="Print the output of all jobs"),
    Option("log", argument="FILE", usage="Print ids and messages to a file"),
    Option("log-stderr", argument="FILE", usage="Print messages to another file"),
    Option("progress", usage="Show a progress bar, on a terminal"),
    Option("jps", usage="With it, show jobs per second"),
)
NEST = (
    Option("add-brokers", argument="N", hidden=True),
    Option("conf", argument="CONF", usage="Configure the instance: KEY=VALUE, a file in TOML or JSON, or its text"),
    Option("broker-opts", argument="OPTS", usage="Options for its brokers"),
    Option("dump", argument="FILE", optional=True, usage="Dump the instance's KVS at the end"),
    Option("nslots", "n", "N", usage="Number of slots"),
    Option("cores-per-slot", "c", "N", usage="Cores for each slot"),
    Option("gpus-per-slot", "g", "N", usage="GPUs for each slot"),
    Option("nodes", "N", "N", usage="Number of nodes"),
    Option("exclusive", "x", usage="Whole nodes, with --nodes"),
    Option("broker-opt", argument="OPTS", hidden=True),
)


def _begin_time(text: str) -> str:
    from pytest_flux.cli.moment import parse_moment

    return f"begin-time:{parse_moment(text)}"


def _same(text: str) -> str:
    return text


# Those that become appearances of another option keep their place among its own.
REWRITES: dict[str, tuple[str, Callable[[str], str]]] = {
    "env-remove": ("env", "-{}".format),
    "env-file": ("env", "^{}".format),
    "begin-time": ("dependency", _begin_time),
    "require": ("requires", _same),
    "dry": ("dry-run", _same),
}
NEST_REWRITES = {**REWRITES, "broker-opt": ("broker-opts", _same)}
