"""`flux job status`, `wait`, `eventlog` and `wait-event`: follow jobs to their end."""

from __future__ import annotations

import errno
import os
import sys
import time

from pytest_flux.cli.command import COLOR, Command, CommandError, Context, reason, wants_color
from pytest_flux.cli.commands.jobs.common import parse_id
from pytest_flux.cli.event_format import OPTIONS as FORMAT_OPTIONS
from pytest_flux.cli.event_format import EventFormatter
from pytest_flux.client.job_follow import (
    CANCEL_TOPIC,
    EXEC,
    INPUT,
    MAIN,
    OUTPUT,
    WAIT_FOR_CREATION,
    events_of,
    watch_log,
)
from pytest_flux.client.job_result import JobResult
from pytest_flux.client.jobs import ANY_JOB
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import decode_eventlog
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.wait_status import exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options
    from pytest_flux.protocol.eventlog import Event

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
    """Wait for jobs, and return the highest exit code."""
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
            print(compact(result.json()))
        fatal = result.values.get("exception_severity") == 0
        own = 0 if result.waitstatus is None else exit_code(result.waitstatus)
        code = max(code, own, options.integer("exception-exit-code", 1) if fatal else 0)
        if verbose:
            _describe(context, name, result, own, verbose)
    return code


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
    """Wait for jobs that were submitted as waitable."""
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


_FORMATS = (
    *FORMAT_OPTIONS,
    COLOR,
    Option("path", "p", "PATH", usage="Another log of the job: exec, output, input, or its key"),
)
EVENTLOG_OPTIONS = (*_FORMATS, Option("follow", "F", usage="Print events as they come, until the job is inactive"))
WAIT_EVENT_OPTIONS = (
    *_FORMATS,
    Option("timeout", "t", "DURATION", usage="Do not wait longer"),
    Option("match-context", "m", "KEY=VAL", usage="The event has to have this in its context"),
    Option("count", "c", "COUNT", usage="How many such events there have to be (1)"),
    Option("quiet", "q", usage="Do not print the event"),
    Option("verbose", "v", usage="Print the events before it as well"),
    Option("waitcreate", "W", usage="The log need not exist yet"),
)
_PATHS = {"exec": EXEC, "output": OUTPUT, "input": INPUT}


def eventlog(options: Options, context: Context) -> int:
    """Print the events."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    name = options.arguments[0]
    if options.has("follow"):
        waiting = _Wait(options, context, name, "clean")
        waiting.verbose, waiting.flags = True, WAIT_FOR_CREATION
        return waiting.run()
    jobid = parse_id(name)
    path = _path(options)
    formatter = _formatter(options, context)
    with context.open() as flux:
        try:
            text = flux.jobs.lookup(jobid, path)[path]
        except FluxError as error:
            raise _lookup_error(error, name, path, "flux_job_eventlog_lookup_get") from None
    sys.stdout.writelines(formatter.format(event) for event in decode_eventlog(text))
    return 0


def wait_event(options: Options, context: Context) -> int:
    """Wait for an event."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    waiting = _Wait(options, context, *options.arguments)
    waiting.verbose, waiting.quiet = options.has("verbose"), options.has("quiet")
    waiting.flags = WAIT_FOR_CREATION if options.has("waitcreate") else 0
    waiting.count = options.integer("count", 1)
    if waiting.count <= 0:
        raise CommandError("count must be > 0")
    if options.has("match-context"):
        waiting.key, equals, waiting.value = (options.get("match-context") or "").partition("=")
        if not equals:
            raise CommandError("must specify a context test as key=value")
    timeout = options.duration("timeout", -1.0)
    waiting.timeout = timeout if timeout >= 0 else None
    return waiting.run()


class _Wait:
    """One wait for one event."""

    def __init__(self, options: Options, context: Context, name: str, event: str) -> None:
        self._context = context
        self._name = name
        self._jobid = parse_id(name)
        self._event = event
        self._path = _path(options)
        self._formatter = _formatter(options, context)
        self._seen = 0
        self.verbose = self.quiet = False
        self.flags = 0
        self.count = 1
        self.key = self.value = ""
        self.timeout: float | None = None

    def run(self) -> int:
        """Wait, and return the exit code. Raises CommandError."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        with self._context.open() as flux:
            rpc = watch_log(flux, self._jobid, self._path, self.flags)
            while True:
                try:
                    answer = rpc.get(None if deadline is None else max(deadline - time.monotonic(), 0))
                except TimeoutError:
                    raise CommandError(f"wait-event timeout on event '{self._event}'") from None
                except FluxError as error:
                    if error.errnum == errno.ENODATA:
                        raise CommandError(f"event '{self._event}' never received") from None
                    raise _lookup_error(error, self._name, self._path, "flux_job_event_watch_get") from None
                for event in events_of(answer):
                    if self._take(event):
                        rpc.cancel(CANCEL_TOPIC)
                        return 0

    def _take(self, event: Event) -> bool:
        self._formatter.start(event["timestamp"])
        self._seen += self._matches(event)
        found = self._matches(event) and self._seen == self.count
        if not self.quiet if found else self.verbose:
            sys.stdout.write(self._formatter.format(event))
            sys.stdout.flush()
        return found

    def _matches(self, event: Event) -> bool:
        if event["name"] != self._event:
            return False
        if not self.key:
            return True
        context = event.get("context", {})
        if self.key not in context:
            return False
        value = context[self.key]
        return self.value in (value, compact(value))


def _path(options: Options) -> str:
    path = options.get("path") or MAIN
    return _PATHS.get(path, path)


def _formatter(options: Options, context: Context) -> EventFormatter:
    form, times = options.get("format") or "text", options.get("time-format") or "raw"
    if options.has("human"):
        form, times = "text", "human"
    if form.lower() not in ("text", "json"):
        raise CommandError(f"invalid format type '{form}'")
    if times.lower() not in ("raw", "iso", "offset", "human", "reltime"):
        raise CommandError(f"invalid time-format type '{times}'")
    times = "human" if times.lower() == "reltime" else times.lower()
    color = wants_color(options, context)
    return EventFormatter(unformatted=form.lower() == "json", timestamps=times, color=color)


def _lookup_error(error: FluxError, name: str, path: str, function: str) -> CommandError:
    if error.errnum != errno.ENOENT:
        return CommandError(f"{function}: {os.strerror(error.errnum)}")
    return CommandError(f"job {name} not found" if path == MAIN else f"eventlog path {path} not found")


COMMANDS = (
    Command("flux-job status", status, usage="id [id...]", options=STATUS_OPTIONS, permute=True),
    Command("flux-job wait", wait, usage="[--all] [id]", options=WAIT_OPTIONS, permute=True),
    Command("flux-job eventlog", eventlog, usage="[OPTIONS] id", options=EVENTLOG_OPTIONS, permute=True),
    Command("flux-job wait-event", wait_event, usage="[OPTIONS] id event", options=WAIT_EVENT_OPTIONS, permute=True),
)
