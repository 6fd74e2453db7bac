"""`flux job list` and its like, one JSON object a line, for programs; and `flux job stats`."""

from __future__ import annotations

import json
import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.job_words import ANY_USER, own_user, parse_id, parse_user
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import ACTIVE, INACTIVE, PENDING, RUNNING, parse_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
        states = 0
        for name in options.all("states"):
            try:
                states |= parse_state(name)
            except ValueError:
                raise CommandError(f"error parsing --states: {name} is unknown") from None
    userid = parse_user(options.get("user") or "") if options.has("user") else own_user()
    if options.has("all"):
        userid = ANY_USER
    # flux-core sends the number of "all" as it is, too.
    constraint = {"and": [{"userid": [-1 if userid == ANY_USER else userid]}, {"states": [states]}]}
    return _print(context, constraint, options.integer("count", 0), 0.0)


def list_inactive(options: Options, context: Context) -> int:
    """Print jobs that are over."""
    _begin(context, right_number=not options.arguments)
    try:
        since = float(options.get("since") or 0.0)
    except ValueError:
        raise CommandError("Option 'since' requires a floating point argument") from None
    return _print(context, {"states": [INACTIVE]}, options.integer("count", 0), since)


def list_ids(options: Options, context: Context) -> int:
    """Print some jobs."""
    _begin(context, right_number=bool(options.arguments))
    try:
        state = parse_state(options.get("wait-state") or "depend")
    except ValueError:
        raise CommandError("invalid job state specified") from None
    with context.open() as flux:
        requests = [{"id": parse_id(name), "attrs": ["all"], "state": state} for name in options.arguments]
        for call in [flux.rpc("job-list.list-id", request) for request in requests]:
            try:
                print(json.dumps(call.get()["job"], ensure_ascii=False))
            except FluxError as error:
                raise CommandError(f"flux job-list.list-d: {reason(error)}") from None
    return 0


def stats(options: Options, context: Context) -> int:
    """Print how many jobs there are."""
    del options
    with context.open() as flux:
        try:
            print(flux.rpc("job-list.job-stats").get_text())
        except FluxError as error:
            raise CommandError(f"stats: {reason(error)}") from None
    return 0


def _begin(context: Context, *, right_number: bool) -> None:
    if sys.stdout.isatty():
        sys.stderr.write("This is not the command you are looking for. Try flux-jobs(1).\n")
        raise SystemExit(1)
    if not right_number:
        raise context.command.usage_error()


def _print(context: Context, constraint: dict[str, Any], count: int, since: float) -> int:
    with context.open() as flux:
        try:
            jobs = flux.jobs.list(constraint=constraint, max_entries=count, since=since)
        except FluxError as error:
            raise CommandError(f"flux job-list.list: {reason(error)}") from None
    sys.stdout.writelines(json.dumps(job, ensure_ascii=False) + "\n" for job in jobs)
    return 0


COMMANDS = (
    Command("flux-job list", list_jobs, usage="[OPTIONS]", options=LIST_OPTIONS, permute=True),
    Command("flux-job list-inactive", list_inactive, usage="[OPTIONS]", options=INACTIVE_OPTIONS, permute=True),
    Command("flux-job list-ids", list_ids, usage="[OPTIONS] ID [ID ...]", options=IDS_OPTIONS, permute=True),
    Command("flux-job stats", stats, usage=""),
)
