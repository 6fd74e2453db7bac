"""`flux update`: change what a job asks for after it was submitted."""

from __future__ import annotations

import json
import math
import time

from pytest_flux.cli.arguments import ArgumentCommand, connect, job_ids, warn
from pytest_flux.options import Option
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (
    Option("dry-run", "n", usage="Change nothing, but print what would be sent"),
    Option("dry", hidden=True),
    Option("verbose", "v", usage="Say what was changed"),
    Option("wait", usage="Wait until the job's log says so"),
)
_DURATION = "attributes.system.duration"
_CURRENT = 3
"""Flags of job-info.lookup: as JSON, with the updates that there were."""


def run(options: Options, context: Context) -> int:
    """Send the updates."""
    words = options.arguments
    jobid = next(iter(job_ids(words[:1], context)), None)
    if jobid is None or len(words) < 2:
        missing = "KEY=VALUE" if words else "JOBID, KEY=VALUE"
        raise COMMAND.parser().usage_error(f"the following arguments are required: {missing}")
    begun = time.time()
    updates = dict(_update(jobid, word, context) for word in words[1:])
    if options.has("dry-run"):
        print(json.dumps(updates))
        return 0
    with connect(context) as flux:
        flux.jobs.update(jobid, updates)
        if options.has("wait"):
            for event in flux.jobs.watch(jobid):
                new = event["name"] == "jobspec-update" and event["timestamp"] > begun
                if new and updates.items() <= event["context"].items():
                    break
    if options.has("verbose"):
        for key, value in updates.items():
            warn(context, f"updated {key} to {value}", "INFO")
    return 0


def _update(jobid: int, word: str, context: Context) -> tuple[str, Any]:
    key, _, text = word.partition("=")
    if key == "name":
        key = "job.name"
    if not key.startswith(("attributes.", "resources.", "tasks.")):
        key = f"attributes.system.{key}"
    if key == _DURATION:
        return key, _duration(jobid, text, context)
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


def _duration(jobid: int, text: str, context: Context) -> float:
    """Seconds; 0 is without end. With a sign, so much more or less than it is now."""
    sign = text[:1] if text.startswith(("+", "-")) else ""
    number = text[len(sign) :]
    try:
        seconds = parse_duration(number)
    except ProtocolError:
        number = ""
    if not number:
        raise ValueError("invalid Flux standard duration")
    if sign:
        with connect(context) as flux:
            jobspec = flux.jobs.lookup(jobid, "jobspec", flags=_CURRENT)["jobspec"]
        before = jobspec["attributes"]["system"]["duration"]
        if not before:
            raise ValueError(f"duration for {f58(jobid)} is unlimited, can't update by {text}")
        seconds = before + (seconds if sign == "+" else -seconds)
        if seconds <= 0:
            now = format_duration(before)
            raise ValueError(f"current duration for {f58(jobid)} ({now}) cannot be reduced by {text[1:]}")
    return 0.0 if math.isinf(seconds) else float(seconds)


COMMAND = ArgumentCommand(
    "flux update",
    run,
    usage="[OPTIONS] JOBID KEY=VALUE...",
    summary="Change jobs that were submitted",
    options=OPTIONS,
    rewrites={"dry": ("dry-run", str)},
)
