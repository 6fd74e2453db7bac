"""`flux job eventlog` and `flux job wait-event`."""

from __future__ import annotations

import errno
import json
import os
import sys
import time

from pytest_flux.cli.commands.command import COLOR, Command, CommandError, Context, wants_color
from pytest_flux.cli.commands.job_words import parse_id
from pytest_flux.cli.commands.kvs_eventlog_format import EventFormatter
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
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import decode_eventlog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options
    from pytest_flux.protocol.eventlog import Event

_FORMATS = (
    Option("format", "f", "FORMAT", usage="text or json"),
    Option("time-format", "T", "FORMAT", usage="raw, iso, offset or human"),
    Option("human", "H", usage="Print times for people"),
    COLOR,
    Option("path", "p", "PATH", usage="Another log of the job: exec, output, input, or its key"),
)
EVENTLOG_OPTIONS = (*_FORMATS, Option("follow", "F", usage="Print events as they come, until the job is inactive"))
WAIT_OPTIONS = (
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
        wait = _Wait(options, context, name, "clean")
        wait.verbose, wait.flags = True, WAIT_FOR_CREATION
        return wait.run()
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
    wait = _Wait(options, context, *options.arguments)
    wait.verbose, wait.quiet = options.has("verbose"), options.has("quiet")
    wait.flags = WAIT_FOR_CREATION if options.has("waitcreate") else 0
    wait.count = options.integer("count", 1)
    if wait.count <= 0:
        raise CommandError("count must be > 0")
    if options.has("match-context"):
        wait.key, equals, wait.value = (options.get("match-context") or "").partition("=")
        if not equals:
            raise CommandError("must specify a context test as key=value")
    timeout = options.duration("timeout", -1.0)
    wait.timeout = timeout if timeout >= 0 else None
    return wait.run()


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
        """Wait; the exit code. Raises CommandError."""
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
        return self.value in (value, json.dumps(value, separators=(",", ":"), ensure_ascii=False))


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
    Command("flux-job eventlog", eventlog, usage="[OPTIONS] id", options=EVENTLOG_OPTIONS, permute=True),
    Command("flux-job wait-event", wait_event, usage="[OPTIONS] id event", options=WAIT_OPTIONS, permute=True),
)
