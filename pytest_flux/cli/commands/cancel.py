"""`flux cancel`: cancel jobs."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect, job_ids
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.job_words import collect, own_user, parse_user
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import ACTIVE, CLEANUP, DEPEND, PENDING, PRIORITY, RUN, RUNNING, SCHED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (
    Option("all", usage="All of our jobs"),
    Option("dry-run", "n", usage="Cancel nothing"),
    Option("dry", hidden=True),
    Option("quiet", "q", usage="Say nothing if there are no such jobs"),
    Option("user", "u", "USER", usage="The jobs of this user, or 'all'"),
    Option("states", "S", "STATES", usage="The jobs in these states (active)"),
    Option("state", argument="STATES", hidden=True),
    Option("message", "m", "NOTE", usage="Why"),
)
_STATES = {
    "depend": DEPEND,
    "priority": PRIORITY,
    "sched": SCHED,
    "run": RUN,
    "cleanup": CLEANUP,
    "pending": PENDING,
    "running": RUNNING,
    "active": ACTIVE,
}


def run(options: Options, context: Context) -> int:
    """Cancel some jobs, or many."""
    many = options.has("all") or options.has("user") or options.has("states")
    ids = job_ids(options.arguments, context, "JOBID...")
    if ids and many:
        raise CommandError("Do not specify a list of jobids with --all,--user,--states options")
    return _cancel_all(options, context) if many else _cancel(options, context, ids)


def _cancel(options: Options, context: Context, ids: list[int]) -> int:
    if not ids:
        raise ValueError("No target jobs were provided")
    if options.has("dry-run"):
        _tell(f"Would cancel {_count(len(ids), 'job')}")
        return 0
    with connect(context) as flux:
        calls = [(f58(jobid), flux.jobs.begin_raise(jobid, note=options.get("message"))) for jobid in ids]
        return collect(calls, context)


def _cancel_all(options: Options, context: Context) -> int:
    request: dict[str, object] = {
        "dry_run": options.has("dry-run"),
        "userid": _user(options),
        "states": _states(options),
        "severity": 0,
        "type": "cancel",
    }
    if options.has("message"):
        request["note"] = options.get("message")
    with connect(context) as flux:
        answer = flux.rpc("job-manager.raiseall", request).get()
    count, errors = answer["count"], answer["errors"]
    if count and options.has("dry-run"):
        _tell(f"Would cancel {_count(count, 'job')}")
    elif count:
        _tell(f"Canceled {_count(count, 'job')} ({_count(errors, 'error')})")
    elif not options.has("quiet"):
        _tell("Matched 0 jobs")
    return 0


def _user(options: Options) -> int:
    name = options.get("user")
    if name is None:
        return own_user()
    try:
        return parse_user(name)
    except CommandError:
        raise ValueError(f"Invalid user {name} specified") from None


def _states(options: Options) -> int:
    mask = 0
    for name in ",".join(options.all("states")).split(",") if options.has("states") else ["active"]:
        if name.lower() not in _STATES:
            raise ValueError(f"Invalid state {name} specified")
        mask |= _STATES[name.lower()]
    return mask


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tell(text: str) -> None:
    sys.stderr.write(f"flux-cancel: {text}\n")


COMMAND = ArgumentCommand(
    "flux cancel",
    run,
    usage="[OPTIONS] [JOBID...]",
    summary="Cancel jobs",
    options=OPTIONS,
    rewrites={"dry": ("dry-run", str), "state": ("states", str)},
)
