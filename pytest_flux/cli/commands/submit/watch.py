"""`flux watch`, and the part of `flux submit` that waits: follow many jobs at once."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.cli.arguments import ArgumentCommand, connect, integer, job_ids, warn
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.jobs.common import format_shell_log
from pytest_flux.cli.commands.jobs.query import Query, fetch, parse_since
from pytest_flux.client.job_follow import EXEC, JobFollower
from pytest_flux.options import Option
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.protocol.wait_status import exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options
    from pytest_flux.protocol.eventlog import Event

_BLOCKS = " ▏▎▍▌▋▊▉█"
_INTERVAL = 0.25


class Progress:
    """The progress bar, on the last line of a terminal. Counts jobs by state, and draws only if ``shown``."""

    def __init__(
        self,
        total: int,
        *,
        shown: bool,
        jobs_per_second: bool = False,
        submission_only: bool = False,
        started: float | None = None,
    ) -> None:
        self.interval = _INTERVAL if shown else None
        self._total = total
        self._shown = shown
        self._rate = jobs_per_second
        self._submission_only = submission_only
        self._started = time.time() if started is None else started
        self._states: dict[int, str] = {}
        self._count = 0
        self._failed_submissions = 0

    def begin(self, jobid: int) -> None:
        """Count a job that is pending."""
        self._states[jobid] = "PD"
        self._total = max(self._total, len(self._states))

    def submitted(self) -> None:
        """Count a job as done when it is submitted."""
        self._count += 1
        self.draw()

    def failed_to_submit(self) -> None:
        """Count a job that was refused."""
        self._count += 1
        self._failed_submissions += 1

    def event(self, jobid: int, event: Event) -> None:
        """Take an event of a job."""
        name, context, state = event["name"], event.get("context", {}), self._states.get(jobid)
        if name == "alloc" and state == "PD":
            self._states[jobid] = "R"
        elif name == "exception" and context["severity"] == 0 and state == "PD":
            self._states[jobid] = "F"
        elif name == "finish" and state in ("PD", "R"):
            self._states[jobid] = "F" if context["status"] else "CD"

    def done(self, jobid: int) -> None:
        """Count a job that needs no more watching."""
        self._count += 1

    def line(self, width: int) -> str:
        """Return the bar, as wide as the terminal."""
        share = min(self._count / self._total, 1.0) if self._total else 0.0
        elapsed = time.time() - self._started
        after = f"{100 * share:5.1f}% "
        if self._rate:
            after += f"{self._count / elapsed if elapsed else 0.0:4.1f} job/s"
        else:
            minutes, seconds = divmod(round(elapsed), 60)
            after += f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        before = f"Submitting {self._total} jobs: " if self._submission_only else self._counts()
        room = max(width - len(before) - len(after) - 2, 0)
        eighths = int(room * (len(_BLOCKS) - 1) * share)
        full, part = divmod(eighths, len(_BLOCKS) - 1)
        bar = _BLOCKS[-1] * full + (_BLOCKS[part] if part else "")
        return f"{before}│{bar:<{room}}│{after}"

    def _counts(self) -> str:
        states = list(self._states.values())
        failed = states.count("F") + self._failed_submissions
        counts = {name: states.count(name) for name in ("PD", "R", "CD")} | {"F": failed}
        return "".join(f"{name}:{count:<3} " for name, count in counts.items())

    def draw(self) -> None:
        """Draw the bar in the last line; the lines above scroll without it."""
        if self._shown:
            columns, lines = _terminal_size()
            self._write(f"\0337\033[r\0338\033D\033M\0337\033[1;{lines - 1}r\0338")
            self._write(f"\0337\033[{lines};1H\033[2K\033[?7l\033[0m{self.line(columns)}\033[?7h\0338")

    def end(self) -> None:
        """Draw the bar a last time, as a line that scrolls."""
        if self._shown:
            columns, lines = _terminal_size()
            self._write(f"\0337\033[{lines};1H\033[K\033[r\0338{self.line(columns)}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _terminal_size() -> tuple[int, int]:

    try:
        return os.get_terminal_size(1)
    except OSError:
        return 80, 24


class Destination:
    """Where the output and the messages of a job go. It keeps text and bytes in order."""

    __slots__ = ("_error", "_output")

    def __init__(self, output: TextIO | None = None, error: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._error = error or sys.stderr

    def output(self, text: str) -> None:
        """Write text to stdout, or to the file in its place."""
        self._output.write(text)

    def error(self, text: str) -> None:
        """Write text to stderr, or to the file in its place."""
        self._error.write(text)

    def data(self, stream: str, data: bytes) -> None:
        """Write bytes to one of the two."""
        target = self._error if stream == "stderr" else self._output
        target.flush()
        target.buffer.write(data)
        target.buffer.flush()


class WatchSession:
    """Watches jobs, which can be added at any time; :meth:`run` waits for all of them."""

    def __init__(
        self,
        flux: Flux,
        *,
        watch: bool = True,
        label: bool = False,
        log_status: bool = False,
        log_events: bool = False,
        progress: bool = False,
        jobs_per_second: bool = False,
        total: int = 0,
        submission_only: bool = False,
        started: float | None = None,
    ) -> None:
        self.exit_code = 0
        self.progress = Progress(
            total, jobs_per_second=jobs_per_second, submission_only=submission_only, shown=progress, started=started
        )
        self._flux = flux
        self._watch = watch
        self._label = label
        self._log_status = log_status
        self._log_events = log_events
        self._active: set[int] = set()
        self._zero: float | None = started

    def add(self, jobid: int, destination: Destination, wait_event: str | None = None) -> None:
        """Watch one more job, until ``wait_event`` or its end."""
        self._active.add(jobid)
        self.progress.begin(jobid)
        _WatchedJob(self, jobid, destination, wait_event).start(self._flux)

    def run(self) -> int:
        """Wait for all jobs, and return the highest exit code."""
        self.progress.draw()
        while self._active:
            self._flux.dispatch(self.progress.interval)
            self.progress.draw()
        self.progress.end()
        return self.exit_code

    def log(self, jobid: int, destination: Destination, timestamp: float, text: str) -> None:
        """Write a line with the time since the first submission."""
        if self._zero is None or timestamp < self._zero:
            self._zero = timestamp
        destination.error(f"{f58(jobid)}: {timestamp - self._zero:4.3f}s: {text}\n")

    def ended(self, jobid: int, code: int = 0) -> None:
        """Count a job that needs no more watching."""
        self._active.discard(jobid)
        self.exit_code = max(self.exit_code, code)
        self.progress.done(jobid)


class _WatchedJob:
    def __init__(self, session: WatchSession, jobid: int, destination: Destination, wait_event: str | None) -> None:
        self._session = session
        self._jobid = jobid
        self._destination = destination
        self._wait_event = wait_event or ""
        self._started = False

    def start(self, flux: Flux) -> None:
        wait_event = "" if self._wait_event.startswith("exec.") else self._wait_event
        self._follower = follower = JobFollower(flux, self._jobid, wait_event=wait_event or "clean")
        follower.on_event = self._event
        follower.on_output = self._output if self._session._watch else None
        needs_exec = self._session._watch or self._wait_event.startswith("exec.")
        follower.on_exec = self._exec_event if needs_exec else None
        follower.on_done = self._done
        follower.start()

    def _event(self, event: Event) -> None:
        session, name = self._session, event["name"]
        self._log_event(event, "")
        session.progress.event(self._jobid, event)
        context = event.get("context", {})
        if name == "start":
            self._started = True
        elif name == "exception" and context["severity"] == 0:
            if not self._started:
                session.exit_code = max(session.exit_code, 1)
            note = f" {context['note']}" if context.get("note") else ""
            self._destination.error(f"job.exception: type={context['type']} severity=0{note}\n")
        elif name == "finish":
            status = context["status"]
            session.exit_code = max(session.exit_code, exit_code(status))
            if session._log_status:
                text = f"{'failed' if status else 'complete'}: status={status}"
                session.log(self._jobid, self._destination, event["timestamp"], text)

    def _log_event(self, event: Event, prefix: str) -> None:
        if self._session._log_events:
            import json

            context = (
                json.dumps(event["context"], separators=(",", ":"), sort_keys=True) if "context" in event else ""
            )
            text = f"{prefix}{event['name']} {context}"
            self._session.log(self._jobid, self._destination, event["timestamp"], text)

    def _exec_event(self, event: Event) -> None:
        self._log_event(event, "exec.")
        if self._wait_event == f"exec.{event['name']}":
            self._follower.detach()
        elif event["name"] == "shell.init" and not self._wait_event.startswith("exec."):
            self._follower.stop(EXEC)

    def _output(self, event: Event) -> None:
        name, context = event["name"], event.get("context", {})
        if name == "data":
            self._data(context)
        elif name == "redirect":
            text = f"{context['rank']}: {context['stream']} redirected to {context.get('path')}"
            self._destination.error(text + "\n")
        elif name == "log":
            self._destination.error(format_shell_log(context, f"flux-shell[{context.get('rank', 0)}]"))

    def _data(self, context: dict[str, Any]) -> None:
        io = decode_io(context)
        if not io.data:
            return
        data = io.data
        if self._session._label:
            prefix = f"{f58(self._jobid)}: {io.rank}: ".encode()
            data = b"".join(prefix + line for line in data.splitlines(keepends=True))
        self._destination.data(io.stream, data)

    def _done(self) -> None:
        self._session.ended(self._jobid)


WATCH_OPTIONS = (
    Option("active", "a", usage="All active jobs of ours"),
    Option("all", "A", usage="All jobs of ours"),
    Option("count", "c", "N", usage="N jobs at most"),
    Option("filter", "f", "STATE|RESULT", usage="Those with these states or results"),
    Option("since", argument="WHEN", usage="Those that became inactive since then"),
    Option("progress", usage="Show a progress bar"),
    Option("jps", usage="With it, show jobs per second"),
    Option("label-io", "l", usage="Begin each line with the job and the task's rank"),
    Option("verbose", "v", usage="Say more on stderr; may be repeated"),
)
_ACTIVE = {"pending", "running"}


def watch(options: Options, context: Context) -> int:
    """Watch jobs; the exit code is the highest of theirs."""
    ids = job_ids(options.arguments, context)
    if ids and any(options.has(name) for name in ("active", "all", "filter", "since", "count")):
        warn(context, "Filtering options ignored with jobid list")
    query, every = _query_of(options, context)
    if not query.filtered and not ids:
        context.log("At least one job selection option is required")
        sys.stderr.write("Try 'flux watch --help' for more information.\n")
        return 1
    with connect() as flux:
        started = float(flux.getattr("broker.starttime")) if every or options.has("since") else None
        records, errors = fetch(flux, query, ids, options.arguments)
        query.truncate(records)
        for line in errors:
            context.log(line)
        if not records:
            warn(context, "No matching jobs", "INFO")
            return 0
        if options.has("verbose"):
            warn(context, f"Watching {len(records)} jobs", "INFO")
        progress = options.has("progress")
        if progress and not sys.stdout.isatty():
            warn(context, "stdout is not a tty. Ignoring --progress option")
            progress = False
        session = WatchSession(
            flux,
            label=options.has("label-io"),
            log_status=options.has("verbose"),
            log_events=options.count("verbose") > 1,
            progress=progress,
            jobs_per_second=options.has("jps"),
            total=len(records),
            started=started,
        )
        for record in records:
            session.add(record.id, Destination(), "clean")
        return session.run()


def _query_of(options: Options, context: Context) -> tuple[Query, bool]:
    """Return the query, and whether it includes inactive jobs. Raises CommandError, OptionExit."""
    query = Query()
    query.count = integer(options, context, "count", 0)
    query.set_fields(["state", "result", "t_submit"])
    words = {word for text in options.all("filter") for word in text.split(",")}
    every = options.has("all") or (options.has("since") and not words)
    if options.has("since"):
        text = options.get("since") or ""
        try:
            query.since = parse_since(text)
        except ValueError:
            raise CommandError(f"--since: invalid value '{text}'", 2) from None
        except CommandError as error:
            raise CommandError(str(error), 2) from None
    words |= _ACTIVE if options.has("active") or every else set()
    words |= {"inactive"} if every else set()
    query.set_outcomes(words)
    query.filtered = bool(words)
    return query, every


COMMANDS = (
    ArgumentCommand(
        "flux-watch",
        watch,
        usage="[OPTIONS] [JOBID ...]",
        summary="Print the output of jobs, and wait for them",
        options=WATCH_OPTIONS,
    ),
)
