"""`flux cancel` and `flux update`: cancel jobs, or change what they ask for."""

from __future__ import annotations

import json
import math
import os
import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect, job_ids, json_or_text, warn
from pytest_flux.cli.command import CommandError, Context
from pytest_flux.cli.commands.jobs.common import collect, user_argument
from pytest_flux.client.clock import instance_time
from pytest_flux.options import Option
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import (
    ACTIVE,
    CLEANUP,
    DEPEND,
    PENDING,
    PRIORITY,
    RUN,
    RUNNING,
    SCHED,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.options import Options

CANCEL_OPTIONS = (
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


def cancel(options: Options, context: Context) -> int:
    """Cancel the jobs with these ids, or all that match."""
    many = options.has("all") or options.has("user") or options.has("states")
    ids = job_ids(options.arguments, context, "JOBID...")
    if ids and many:
        raise CommandError("Do not specify a list of jobids with --all,--user,--states options")
    return _cancel_matching(options, context) if many else _cancel_ids(options, context, ids)


def _cancel_ids(options: Options, context: Context, ids: list[int]) -> int:
    if not ids:
        raise ValueError("No target jobs were provided")
    if options.has("dry-run"):
        _tell(f"Would cancel {_count(len(ids), 'job')}")
        return 0
    with connect() as flux:
        calls = [(f58(jobid), flux.jobs.begin_raise(jobid, note=options.get("message"))) for jobid in ids]
        return collect(calls, context)


def _cancel_matching(options: Options, context: Context) -> int:
    request: dict[str, object] = {
        "dry_run": options.has("dry-run"),
        "userid": user_argument(options.get("user") or "") if options.has("user") else os.getuid(),
        "states": _states(options),
        "severity": 0,
        "type": "cancel",
    }
    if options.has("message"):
        request["note"] = options.get("message")
    with connect() as flux:
        answer = flux.rpc("job-manager.raiseall", request).get()
    count, errors = answer["count"], answer["errors"]
    if count and options.has("dry-run"):
        _tell(f"Would cancel {_count(count, 'job')}")
    elif count:
        _tell(f"Canceled {_count(count, 'job')} ({_count(errors, 'error')})")
    elif not options.has("quiet"):
        _tell("Matched 0 jobs")
    return 0


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


UPDATE_OPTIONS = (
    Option("dry-run", "n", usage="Change nothing, but print what would be sent"),
    Option("dry", hidden=True),
    Option("verbose", "v", usage="Say what was changed"),
    Option("wait", usage="Wait until the job's log says so"),
)
_DURATION = "attributes.system.duration"
_CURRENT = 3
"""Flags of job-info.lookup: decode JSON, apply updates."""


def update(options: Options, context: Context) -> int:
    """Send the updates."""
    words = options.arguments
    jobid = next(iter(job_ids(words[:1], context)), None)
    if jobid is None or len(words) < 2:
        missing = "KEY=VALUE" if words else "JOBID, KEY=VALUE"
        raise context.command.parser().usage_error(f"the following arguments are required: {missing}")
    updates = dict(_update(jobid, word) for word in words[1:])
    if options.has("dry-run"):
        print(json.dumps(updates))
        return 0
    with connect() as flux:
        begun = instance_time(flux)
        flux.jobs.update(jobid, updates)
        if options.has("wait"):
            for event in flux.jobs.watch(jobid):
                new = event["name"] == "jobspec-update" and event["timestamp"] >= begun
                if new and updates.items() <= event["context"].items():
                    break
    if options.has("verbose"):
        for key, value in updates.items():
            warn(context, f"updated {key} to {value}", "INFO")
    return 0


def _update(jobid: int, word: str) -> tuple[str, Any]:
    key, _, text = word.partition("=")
    if key == "name":
        key = "job.name"
    if not key.startswith(("attributes.", "resources.", "tasks.")):
        key = f"attributes.system.{key}"
    if key == _DURATION:
        return key, _duration(jobid, text)
    return key, json_or_text(text)


def _duration(jobid: int, text: str) -> float:
    """Parse a duration in seconds; 0 means no limit. A sign changes the present duration by that much."""
    sign = text[:1] if text.startswith(("+", "-")) else ""
    number = text[len(sign) :]
    try:
        seconds = parse_duration(number)
    except ProtocolError:
        number = ""
    if not number:
        raise ValueError("invalid Flux standard duration")
    if sign:
        with connect() as flux:
            jobspec = flux.jobs.lookup(jobid, "jobspec", flags=_CURRENT)["jobspec"]
        before = jobspec["attributes"]["system"]["duration"]
        if not before:
            raise ValueError(f"duration for {f58(jobid)} is unlimited, can't update by {text}")
        seconds = before + (seconds if sign == "+" else -seconds)
        if seconds <= 0:
            now = format_duration(before)
            raise ValueError(f"current duration for {f58(jobid)} ({now}) cannot be reduced by {text[1:]}")
    return 0.0 if math.isinf(seconds) else float(seconds)


COMMANDS = (
    ArgumentCommand(
        "flux cancel",
        cancel,
        usage="[OPTIONS] [JOBID...]",
        summary="Cancel jobs",
        options=CANCEL_OPTIONS,
        rewrites={"dry": ("dry-run", str), "state": ("states", str)},
    ),
    ArgumentCommand(
        "flux update",
        update,
        usage="[OPTIONS] JOBID KEY=VALUE...",
        summary="Change jobs that were submitted",
        options=UPDATE_OPTIONS,
        rewrites={"dry": ("dry-run", str)},
    ),
)
