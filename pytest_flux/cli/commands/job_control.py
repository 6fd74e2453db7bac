"""`flux job urgency`, `memo`, `purge` and `submit`."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.job_words import parse_id
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import FLAG_DEBUG, FLAG_NOVALIDATE, FLAG_WAITABLE, URGENCY_DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options

PURGE_OPTIONS = (
    Option("age-limit", argument="FSD", usage="Purge jobs that became inactive beyond age-limit."),
    Option("num-limit", argument="COUNT", usage="Purge oldest inactive jobs until COUNT are left."),
    Option("force", "f", usage="Perform the irreversible purge."),
    Option("batch", argument="COUNT", usage="Limit number of jobs per request (default 50)."),
)
SUBMIT_OPTIONS = (
    Option("urgency", "u", "N", usage="Set job urgency (0-31), hold=0, default=16, expedite=31"),
    Option("flags", "f", "FLAGS", split=True, usage="Set flags: debug, waitable, novalidate, signed"),
)
_URGENCIES = {"hold": 0, "expedite": 31, "default": URGENCY_DEFAULT}
_FLAGS = {"debug": FLAG_DEBUG, "waitable": FLAG_WAITABLE, "novalidate": FLAG_NOVALIDATE, "signed": 0}


def urgency(options: Options, context: Context) -> int:
    """Set the urgency of a job."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    name, text = options.arguments
    jobid = parse_id(name)
    value = _URGENCIES.get(text.lower())
    if value is None:
        if not text.isdigit():
            raise CommandError(f'error parsing urgency: "{text}"')
        value = int(text)
    with context.open() as flux:
        try:
            old = flux.jobs.urgency(jobid, value)
        except FluxError as error:
            raise CommandError(f"{name}: {reason(error)}") from None
    if options.has("verbose"):
        sys.stderr.write(f"old urgency: { {0: 'job held', 31: 'job expedited'}.get(old, old) }\n")
    return 0


def memo(options: Options, context: Context) -> int:
    """Attach values to a job."""
    if len(options.arguments) < 2:
        raise context.command.usage_error()
    name, *settings = options.arguments
    jobid = parse_id(name)
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise CommandError(f"memo: no value for key={key}")
        _set(values, key, _json_or_text(sys.stdin.read() if text == "-" else text))
    with context.open() as flux:
        try:
            flux.jobs.memo(jobid, values, volatile=options.has("volatile"))
        except FluxError as error:
            raise CommandError(f"memo: {reason(error)}") from None
    return 0


def _set(values: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise CommandError(f"failed to set {key} in memo object")
    values[last] = value


def _json_or_text(text: str) -> object:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def purge(options: Options, context: Context) -> int:
    """Forget inactive jobs."""
    force = options.has("force")
    with context.open() as flux:
        try:
            total = (
                _purge_ids(flux, options, force=force)
                if options.arguments
                else _purge_oldest(flux, options, force=force)
            )
        except FluxError as error:
            raise CommandError(f"purge: {reason(error)}") from None
        inactive = flux.rpc("job-manager.stats-get", nodeid=0).get()["inactive_jobs"]
    if force:
        print(f"purged {total} inactive jobs, {inactive} remaining")
    else:
        print(f"use --force to purge {total} of {inactive} inactive jobs")
    return 0


def _purge_oldest(flux: Flux, options: Options, *, force: bool) -> int:
    batch, total = options.integer("batch", 50), 0
    request = {
        "age_limit": options.duration("age-limit", -1.0),
        "num_limit": options.integer("num-limit", -1),
        "batch": batch,
        "force": force,
    }
    while True:
        count = int(flux.rpc("job-manager.purge", request, nodeid=0).get()["count"])
        total += count
        if not force or count != batch:
            return total


def _purge_ids(flux: Flux, options: Options, *, force: bool) -> int:
    requests = [{"id": parse_id(name), "force": int(force)} for name in options.arguments]
    calls = [flux.rpc("job-manager.purge-id", request, nodeid=0) for request in requests]
    return sum(int(call.get()["count"]) for call in calls)


def submit(options: Options, context: Context) -> int:
    """Submit a jobspec as it is, from a file or stdin."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    path = options.arguments[0] if options.arguments else "-"
    flags = 0
    for name in options.all("flags"):
        if name not in _FLAGS:
            raise CommandError(f"unknown flag: {name}")
        flags |= _FLAGS[name]
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            jobspec = file.read()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    if not jobspec:
        raise CommandError("required jobspec is empty")
    urgency = options.integer("urgency", URGENCY_DEFAULT)
    with context.open() as flux:
        try:
            if "signed" in options.all("flags"):
                request = {"J": os.fsdecode(jobspec).strip(), "urgency": urgency, "flags": flags}
                jobid = int(flux.rpc("job-ingest.submit", request).get()["id"])
            else:
                jobid = flux.jobs.submit(jobspec, urgency=urgency, flags=flags)
        except FluxError as error:
            raise CommandError(reason(error)) from None
    print(f58(jobid))
    return 0


COMMANDS = (
    Command(
        "flux-job urgency",
        urgency,
        usage="[OPTIONS] id urgency",
        options=(Option("verbose", "v", usage="Output old urgency value on success"),),
    ),
    Command(
        "flux-job memo",
        memo,
        usage="[--volatile] id key=value [key=value, ...]",
        options=(Option("volatile", usage="Do not write it to the log; a restart loses it"),),
        permute=True,
    ),
    Command(
        "flux-job purge",
        purge,
        usage="[--age-limit=FSD] [--num-limit=N] [--batch=COUNT] [--force] [ID ...]",
        options=PURGE_OPTIONS,
        permute=True,
    ),
    Command("flux-job submit", submit, usage="[OPTIONS] [jobspec]", options=SUBMIT_OPTIONS, permute=True),
)
