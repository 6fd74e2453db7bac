"""`flux job id`, `info`, `last`, `namespace` and `timeleft`: small questions about jobs."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.job_words import parse_id
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import encode_fluid, f58, parse_fluid
from pytest_flux.protocol.job_state import PENDING, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

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
        try:
            print(_lookup(flux, jobid, key, options))
        except FluxError as error:
            raise CommandError(reason(error)) from None
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
        try:
            ids = flux.jobs.last(text)
        except FluxError as error:
            raise CommandError(reason(error)) from None
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
    left = float("inf") if expiration == 0 else max(expiration - time.time(), 0.0)
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
    # 1970 is over: no time left.
    return float(job.get("expiration", 0.0)) if job["state"] == RUN else 1.0


COMMANDS = (
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
)
