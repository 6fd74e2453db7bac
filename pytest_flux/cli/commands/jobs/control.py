"""`flux job submit`, `urgency`, `memo`, `kill`, `raise`, `cancel` and `purge`: submit jobs and act on them."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.arguments import json_or_text, set_dotted
from pytest_flux.cli.command import Command, CommandError, Context, explaining
from pytest_flux.cli.commands.jobs.common import (
    SUBMISSION_FLAGS,
    URGENCIES,
    collect,
    parse_id,
    parse_signal_name,
    parse_states,
    user_option,
)
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58, parse_fluid
from pytest_flux.protocol.job_state import ACTIVE, INACTIVE, URGENCY_DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux, Rpc
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
_FLAGS = {**SUBMISSION_FLAGS, "signed": 0}


def urgency(options: Options, context: Context) -> int:
    """Set the urgency of a job."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    name, text = options.arguments
    jobid = parse_id(name)
    value = URGENCIES.get(text.lower())
    if value is None:
        if not text.isdigit():
            raise CommandError(f'error parsing urgency: "{text}"')
        value = int(text)
    with context.open() as flux, explaining(f"{name}"):
        old = flux.jobs.urgency(jobid, value)
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
        value = json_or_text(sys.stdin.read() if text == "-" else text)
        set_dotted(values, key, value, f"failed to set {key} in memo object")
    with context.open() as flux, explaining("memo"):
        flux.jobs.memo(jobid, values, volatile=options.has("volatile"))
    return 0


def purge(options: Options, context: Context) -> int:
    """Purge inactive jobs."""
    force = options.has("force")
    with context.open() as flux:
        with explaining("purge"):
            total = (
                _purge_ids(flux, options, force=force)
                if options.arguments
                else _purge_oldest(flux, options, force=force)
            )
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
    """Submit a jobspec from a file or stdin."""
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
        if "signed" in options.all("flags"):
            request = {"J": os.fsdecode(jobspec).strip(), "urgency": urgency, "flags": flags}
            jobid = int(flux.rpc("job-ingest.submit", request).get()["id"])
        else:
            jobid = flux.jobs.submit(jobspec, urgency=urgency, flags=flags)
    print(f58(jobid))
    return 0


_SIGNAL = Option("signal", "s", "SIG", usage="Send signal SIG (default SIGTERM)")
_USER = Option("user", "u", "USER", usage="Of this user, or 'all' (instance owner only)")
_FORCE = Option("force", "f", usage="Confirm the command")
_MESSAGE = Option("message", "m", "NOTE", usage="Set exception note")
RAISE_OPTIONS = (
    Option("severity", "s", "N", usage="Set exception severity [0-7] (default=0)"),
    Option("type", "t", "TYPE", usage="Set exception type (default=cancel)"),
    _MESSAGE,
)
RAISEALL_OPTIONS = (
    Option("severity", "s", "N", usage="Set exception severity [0-7] (0 is fatal, default=7)"),
    _USER,
    Option("states", "S", "STATES", split=True, usage="Set target job states (default=ACTIVE)"),
    _FORCE,
)


def kill(options: Options, context: Context) -> int:
    """Send a signal to jobs."""
    if not options.arguments:
        raise context.command.usage_error()
    ids, rest = _leading_ids(options.arguments)
    if rest:
        raise CommandError(f"invalid jobid: {rest[0]}")
    signum = parse_signal_name(options.get("signal") or "SIGTERM", "kill")
    with context.open() as flux:
        return _for_each(ids, lambda jobid: flux.jobs.begin_kill(jobid, signum), context, "kill")


def raise_exception(options: Options, context: Context) -> int:
    """Raise an exception on jobs."""
    return _raise(options, context, options.get("type") or "cancel", options.integer("severity", 0), "raise")


def cancel(options: Options, context: Context) -> int:
    """Cancel jobs."""
    return _raise(options, context, "cancel", 0, "cancel")


def _raise(options: Options, context: Context, kind: str, severity: int, prefix: str) -> int:
    if not options.arguments:
        raise context.command.usage_error()
    ids, rest = _leading_ids(options.arguments)
    note = " ".join(rest) if rest else None
    if options.has("message"):
        if note is not None:
            raise CommandError("Do not set note on command line and with --message")
        note = options.get("message")
    with context.open() as flux:
        return _for_each(ids, lambda jobid: flux.jobs.begin_raise(jobid, kind, severity, note), context, prefix)


def _leading_ids(words: list[str]) -> tuple[list[str], list[str]]:
    """Split words into the job ids at the beginning, and the rest."""
    for index, word in enumerate(words):
        try:
            parse_fluid(word)
        except ValueError:
            return words[:index], words[index + (word == "--") :]
    return words, []


def _for_each(ids: list[str], begin: Callable[[int], Rpc], context: Context, prefix: str) -> int:
    return collect([(f"{prefix} {name}", begin(parse_id(name))) for name in ids], context)


def raiseall(options: Options, context: Context) -> int:
    """Raise an exception on many jobs."""
    if not options.arguments:
        raise context.command.usage_error()
    kind, *words = options.arguments
    states = ACTIVE
    if options.has("states"):
        states = parse_states(options.all("states"))
        if not states:
            raise CommandError("no states specified")
        if states & INACTIVE:
            raise CommandError("Exceptions cannot be raised on inactive jobs")
    request = {
        "dry_run": not options.has("force"),
        "userid": user_option(options),
        "states": states,
        "severity": options.integer("severity", 7),
        "type": kind,
        "note": " ".join(words),
    }
    return _all(options, context, "raiseall", request, "Raised exception on")


def killall(options: Options, context: Context) -> int:
    """Send a signal to many jobs."""
    if options.arguments:
        raise context.command.usage_error()
    import signal

    signum = parse_signal_name(options.get("signal") or "SIGTERM", "killall")
    request: dict[str, object] = {
        "dry_run": not options.has("force"),
        "userid": user_option(options),
        "signum": signum,
    }
    return _all(options, context, "killall", request, signal.strsignal(signum) or f"Signal {signum}")


def _all(options: Options, context: Context, method: str, request: dict[str, object], done: str) -> int:
    with context.open() as flux:
        answer = _ask(flux, method, request)
    count, errors = answer["count"], answer["errors"]
    if count > 0 and not options.has("force"):
        context.log(f"Command matched {count} jobs (-f to confirm)")
    elif count > 0:
        context.log(f"{done} {count} jobs ({errors} errors)")
    else:
        context.log("Command matched 0 jobs")
    return 0


def _ask(flux: Flux, method: str, request: dict[str, object]) -> dict[str, int]:
    with explaining(f"{method}"):
        return flux.rpc(f"job-manager.{method}", request).get()


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
    Command("flux-job kill", kill, usage="[OPTIONS] ids...", options=(_SIGNAL,), permute=True),
    Command("flux-job killall", killall, usage="[OPTIONS]", options=(_SIGNAL, _USER, _FORCE), permute=True),
    Command(
        "flux-job cancel", cancel, usage="[OPTIONS] ids... [--] [message ...]", options=(_MESSAGE,), permute=True
    ),
    Command(
        "flux-job raise",
        raise_exception,
        usage="[OPTIONS] ids... [--] [message ...]",
        options=RAISE_OPTIONS,
        permute=True,
    ),
    Command(
        "flux-job raiseall", raiseall, usage="OPTIONS type [message ...]", options=RAISEALL_OPTIONS, permute=True
    ),
)
