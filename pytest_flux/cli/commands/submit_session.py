"""Submission of many jobs at once, and waiting for them: what `submit`, `bulksubmit` and `watch` share."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.arguments import connect
from pytest_flux.cli.commands.command import CommandError
from pytest_flux.cli.commands.submit_jobspec import is_idset, make_jobspec
from pytest_flux.cli.commands.submit_request import Request
from pytest_flux.cli.commands.watch_session import Destination, WatchSession
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.job_state import FLAG_DEBUG, FLAG_NOVALIDATE, FLAG_WAITABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from pytest_flux.cli.commands.command import Context
    from pytest_flux.client import Flux, Rpc

_FLAGS = {"debug": FLAG_DEBUG, "waitable": FLAG_WAITABLE, "novalidate": FLAG_NOVALIDATE}
_URGENCIES = {"default": 16, "hold": 0, "expedite": 31}

# Answers are taken from time to time while jobs are still being made, so that neither side piles up too much.
_TAKE_ANSWERS_AFTER = 64


def submission_flags(request: Request) -> int:
    """What ``--flags`` says. Raises ValueError."""
    flags = 0
    for text in request.all("flags"):
        for name in text.split(","):
            if name not in _FLAGS:
                raise ValueError(f"--flags: Unknown flag {name}")
            flags |= _FLAGS[name]
    return flags


def urgency_of(request: Request) -> int:
    """What ``--urgency`` says. Raises ValueError."""
    text = request.get("urgency") or "default"
    return _URGENCIES[text] if text in _URGENCIES else int(text)


def print_jobspec(jobspec: dict[str, Any]) -> None:
    """The output of ``--dry-run``."""
    import json

    print(json.dumps(jobspec, ensure_ascii=False))


def submit_one(flux: Flux, request: Request, jobspec: dict[str, Any]) -> int:
    """Submit one job, and wait for its id."""
    return flux.jobs.submit(jobspec, urgency=urgency_of(request), flags=submission_flags(request))


def copies_of(request: Request) -> list[int | None]:
    """The numbers of the copies that ``--cc`` or ``--bcc`` ask for; one without number if neither. ValueError."""
    if request.get("cc") and request.get("bcc"):
        raise ValueError("specify only one of --cc or --bcc")
    text = request.get("cc") or request.get("bcc")
    if not text:
        return [None]
    try:
        return list(decode_idset(text))
    except ValueError:
        raise ValueError(f"IDset(): Invalid argument: {text}") from None


class SubmitSession:
    """Submits without waiting for answers, prints ids as they come, and watches the jobs if told to."""

    def __init__(self, context: Context, request: Request, total: int) -> None:
        self.exit_code = 0
        self._context = context
        self._flux: Flux | None = None
        self._logs: dict[str, TextIO] = {}
        self._watch: WatchSession | None = None
        self._outstanding = 0
        self._unanswered = 0
        self._wait_event = request.get("wait-event") or ("clean" if request.has("wait") else None)
        self._watches = request.has("watch")
        self._progress = request.has("progress")
        if self._progress and not sys.stdout.isatty():
            # In the name of `flux`, as in Flux.
            sys.stderr.write("flux: WARNING: stdout is not a tty. Ignoring --progress option\n")
            self._progress = False
        self._total = total
        self._request = request

    def submit(self, request: Request) -> None:
        """Submit a job and its copies. Raises CommandError, ValueError, OSError."""
        for copy in copies_of(request):
            filled = request if copy is None else request.filled(cc=copy)
            jobspec = make_jobspec(filled)
            stdin = filled.get("input")
            if stdin and is_idset(stdin):
                raise CommandError("per-task input not supported for submit")
            if copy is not None and not request.get("bcc"):
                jobspec["attributes"]["system"]["environment"]["FLUX_JOB_CC"] = str(copy)
            if request.has("dry-run"):
                print_jobspec(jobspec)
                raise DryRunEnd
            self._send(filled, jobspec, "" if copy is None else f"cc={copy}: ")

    def _send(self, request: Request, jobspec: dict[str, Any], label: str) -> None:
        flags, urgency = submission_flags(request), urgency_of(request)
        flux = self._connect()
        rpc = flux.jobs.begin_submit(jobspec, urgency=urgency, flags=flags)
        destination = self._destination(request)
        rpc.then(lambda rpc: self._submitted(rpc, request, destination, label))
        self._outstanding += 1
        self._unanswered += 1
        if self._unanswered >= _TAKE_ANSWERS_AFTER:
            self._unanswered = 0
            flux.dispatch(0)

    def _connect(self) -> Flux:
        if self._flux is None:
            self._flux = connect(self._context)
            self._watch = WatchSession(
                self._flux,
                watch=self._watches,
                label=self._request.has("label-io"),
                log_status=self._request.has("verbose"),
                log_events=self._request.count("verbose") > 1,
                progress=self._progress,
                jobs_per_second=self._request.has("jps"),
                total=self._total,
                submission_only=not (self._watches or self._wait_event),
            )
        return self._flux

    def _destination(self, request: Request) -> Destination:
        out: TextIO = sys.stdout
        error: TextIO = sys.stderr
        if request.get("log"):
            out = error = self._open_log(request.get("log") or "")
        if request.get("log-stderr"):
            error = self._open_log(request.get("log-stderr") or "")
        return Destination(out, error)

    def _open_log(self, path: str) -> TextIO:
        if path not in self._logs:
            self._logs[path] = open(path, "w", buffering=1, errors="surrogateescape")  # noqa: SIM115
        return self._logs[path]

    def _submitted(self, rpc: Rpc, request: Request, destination: Destination, label: str) -> None:
        self._outstanding -= 1
        assert self._watch is not None
        try:
            jobid = int(rpc.get()["id"])
        except FluxError as error:
            destination.error(f"{label}[Errno {error.errnum}] {error.text or os.strerror(error.errnum)}\n")
            self.exit_code = 1
            self._watch.progress.failed_to_submit()
            return
        if not request.has("quiet"):
            destination.output(f"{f58(jobid)}\n")
        if self._watches or self._wait_event:
            self._watch.add(jobid, destination, self._wait_event)
        else:
            self._watch.progress.submitted()

    def finish(self) -> int:
        """Wait for all answers and, if told to, for all jobs; the exit code."""
        if self._flux is None or self._watch is None:
            return self.exit_code
        with self._flux:
            while self._outstanding:
                self._flux.dispatch(None)
            code = self._watch.run()
        for log in self._logs.values():
            log.close()
        return max(self.exit_code, code)


class DryRunEnd(Exception):
    """A dry run ends with the first jobspec."""
