"""`flux job status` and `flux job wait`: how jobs came out."""

from __future__ import annotations

import errno
import json
import os
import sys

from pytest_flux.cli.commands.command import Command, CommandError, Context, reason
from pytest_flux.cli.commands.job_words import parse_id
from pytest_flux.client.job_follow import events_of, watch_log
from pytest_flux.client.job_result import JobResult
from pytest_flux.client.jobs import ANY_JOB
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

STATUS_OPTIONS = (
    Option("verbose", "v", usage="Increase verbosity"),
    Option("exception-exit-code", "e", "N", usage="The exit code for jobs that only an exception ended (1)", group=1),
    Option("json", "j", usage="Print what is known of each job's result, as JSON"),
)
WAIT_OPTIONS = (
    Option("all", "a", usage="Wait for all (waitable) jobs"),
    Option("verbose", "v", usage="Emit a line of output for all jobs, not just failing ones"),
)


def status(options: Options, context: Context) -> int:
    """Wait for jobs; the highest exit code."""
    names = options.arguments
    if not names:
        raise context.command.usage_error()
    verbose, code = options.count("verbose"), 0
    if verbose and len(names) > 1:
        context.log(f"fetching status for {len(names)} jobs")
    with context.open() as flux:
        watches = [(name, jobid, watch_log(flux, jobid)) for name, jobid in ((n, parse_id(n)) for n in names)]
        results = [(name, _result(name, jobid, rpc, options)) for name, jobid, rpc in watches]
    if verbose and len(names) > 1:
        context.log("all done.")
    for name, result in results:
        if options.has("json"):
            print(json.dumps(result.json(), separators=(",", ":"), ensure_ascii=False))
        fatal = result.values.get("exception_severity") == 0
        own = 0 if result.waitstatus is None else _shell_code(result.waitstatus)
        code = max(code, own, options.integer("exception-exit-code", 1) if fatal else 0)
        if verbose:
            _describe(context, name, result, own, verbose)
    return code


def _shell_code(waitstatus: int) -> int:
    code = os.waitstatus_to_exitcode(waitstatus)
    return code if code >= 0 else 128 - code


def _result(name: str, jobid: int, rpc: Rpc, options: Options) -> JobResult:
    result = JobResult(jobid)
    try:
        for answer in rpc:
            for event in events_of(answer):
                result.add(event)
    except FluxError as error:
        if error.errnum == errno.ENOENT and not options.has("json"):
            raise CommandError(f"{name}: No such job") from None
        where = "flux_job_result_get" if options.has("json") else f"{name}: flux_job_wait_status_get"
        raise CommandError(f"{where}: {os.strerror(error.errnum)}") from None
    return result


def _describe(context: Context, name: str, result: JobResult, code: int, verbose: int) -> None:
    if result.waitstatus is not None and os.WIFSIGNALED(result.waitstatus):
        context.log(f"{name}: job shell died by signal {os.WTERMSIG(result.waitstatus)}")
    elif verbose > 1 or code:
        if result.values.get("exception_severity") == 0:
            context.log(f"{name}: exception type={result.values['exception_type']}")
        else:
            context.log(f"{name}: exited with exit code {code}")


def wait(options: Options, context: Context) -> int:
    """Wait for jobs that were submitted to be waited for."""
    if len(options.arguments) > 1:
        raise context.command.usage_error()
    jobid = parse_id(options.arguments[0]) if options.arguments else ANY_JOB
    if options.arguments and options.has("all"):
        raise CommandError("jobid not supported with --all")
    with context.open() as flux:
        return _wait_all(flux, options) if options.has("all") else _wait_one(flux, jobid, context)


def _wait_all(flux: Flux, options: Options) -> int:
    code = 0
    while True:
        try:
            answer = flux.jobs.wait()
        except FluxError as error:
            if error.errnum == errno.ECHILD:
                return code
            raise CommandError(f"flux_job_wait_get_status: {reason(error)}") from None
        if not answer["success"]:
            sys.stderr.write(f"{f58(answer['id'])}: {answer['errstr']}\n")
            code = 1
        elif options.has("verbose"):
            sys.stderr.write(f"{f58(answer['id'])}: job completed successfully\n")


def _wait_one(flux: Flux, jobid: int, context: Context) -> int:
    try:
        answer = flux.jobs.wait(jobid)
    except FluxError as error:
        context.log(reason(error))
        return 2 if error.errnum == errno.ECHILD else 1
    if jobid == ANY_JOB:
        print(f58(answer["id"]), flush=True)
    if not answer["success"]:
        raise CommandError(answer["errstr"])
    return 0


COMMANDS = (
    Command("flux-job status", status, usage="id [id...]", options=STATUS_OPTIONS, permute=True),
    Command("flux-job wait", wait, usage="[--all] [id]", options=WAIT_OPTIONS, permute=True),
)
