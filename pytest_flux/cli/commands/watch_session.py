"""Watching many jobs at once: their output, their ends, and the highest exit code."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.commands.attach_output import LEVELS
from pytest_flux.cli.commands.watch_progress import Progress
from pytest_flux.client.job_follow import EXEC, JobFollower
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.ioencode import decode_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from pytest_flux.client import Flux
    from pytest_flux.protocol.eventlog import Event


class Destination:
    """Where the output and the messages of a job go. Text and bytes keep their order."""

    __slots__ = ("_error", "_output")

    def __init__(self, output: TextIO = sys.stdout, error: TextIO = sys.stderr) -> None:
        self._output = output
        self._error = error

    def output(self, text: str) -> None:
        """Print to stdout, or instead of it."""
        self._output.write(text)

    def error(self, text: str) -> None:
        """Print to stderr, or instead of it."""
        self._error.write(text)

    def data(self, stream: str, data: bytes) -> None:
        """Bytes as they are."""
        target = self._error if stream == "stderr" else self._output
        target.flush()
        target.buffer.write(data)
        target.buffer.flush()


class WatchSession:
    """Jobs are added at any time; :meth:`run` waits for all of them."""

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
        """Wait for all jobs; the highest exit code."""
        self.progress.draw()
        while self._active:
            self._flux.dispatch(self.progress.interval)
            self.progress.draw()
        self.progress.end()
        return self.exit_code

    def log(self, jobid: int, destination: Destination, timestamp: float, text: str) -> None:
        """A line with the time since the first submission."""
        if self._zero is None or timestamp < self._zero:
            self._zero = timestamp
        destination.error(f"{f58(jobid)}: {timestamp - self._zero:4.3f}s: {text}\n")

    def ended(self, jobid: int, code: int = 0) -> None:
        """A job needs no more watching."""
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
            code = os.waitstatus_to_exitcode(status)
            session.exit_code = max(session.exit_code, code if code >= 0 else 128 - code)
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
            self._destination.error(format_log(context) + "\n")

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


def format_log(context: dict[str, Any]) -> str:
    """A message of the job shell, in the words of Flux's Python programs."""
    parts = [f"flux-shell[{context.get('rank', 0)}]", LEVELS[context["level"]], context.get("component") or ""]
    return ": ".join([*(part for part in parts if part), context["message"]])
