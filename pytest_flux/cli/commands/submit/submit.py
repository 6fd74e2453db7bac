"""`flux run`, `flux submit` and `flux bulksubmit`: submit jobs."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.arguments import ArgumentCommand, connect
from pytest_flux.cli.command import CommandError
from pytest_flux.cli.commands.jobs.common import SUBMISSION_FLAGS, URGENCIES
from pytest_flux.cli.commands.submit.jobspec import is_idset, make_jobspec
from pytest_flux.cli.commands.submit.request import BULK, COMMON, REWRITES, TASKS, Request
from pytest_flux.cli.commands.submit.watch import Destination, WatchSession
from pytest_flux.cli.stdio import outlive_readers
from pytest_flux.options import Option, OptionExit
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options

# Answers are read after this many requests, so that they do not pile up while jobs are still being made.
_TAKE_ANSWERS_AFTER = 64


def submission_flags(request: Request) -> int:
    """Return the flags that ``--flags`` names. Raises ValueError."""
    flags = 0
    for text in request.all("flags"):
        for name in text.split(","):
            if name not in SUBMISSION_FLAGS:
                raise ValueError(f"--flags: Unknown flag {name}")
            flags |= SUBMISSION_FLAGS[name]
    return flags


def urgency_of(request: Request) -> int:
    """Return the urgency that ``--urgency`` names. Raises ValueError."""
    text = request.get("urgency") or "default"
    return URGENCIES[text] if text in URGENCIES else int(text)


def print_jobspec(jobspec: dict[str, Any]) -> None:
    """Print the output of ``--dry-run``."""
    import json

    print(json.dumps(jobspec, ensure_ascii=False))


def submit_one(flux: Flux, request: Request, jobspec: dict[str, Any]) -> int:
    """Submit one job, and return its id."""
    return flux.jobs.submit(jobspec, urgency=urgency_of(request), flags=submission_flags(request))


def copies_of(request: Request) -> list[int | None]:
    """Return the numbers of the copies that ``--cc`` or ``--bcc`` ask for, or None for one job. Raises ValueError."""
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
    """Submits without waiting for answers, prints ids as they come, and watches the jobs if asked to."""

    def __init__(self, request: Request, total: int) -> None:
        self.exit_code = 0
        self._flux: Flux | None = None
        self._logs: dict[str, TextIO] = {}
        self._watch: WatchSession | None = None
        self._outstanding = 0
        self._unanswered = 0
        self._wait_event = request.get("wait-event") or ("clean" if request.has("wait") else None)
        self._watches = request.has("watch")
        self._progress = request.has("progress")
        if self._progress and not sys.stdout.isatty():
            # Flux, too, reports this in the name of `flux`.
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
                # A dry run ends with the first jobspec.
                raise OptionExit(0, "")
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
            outlive_readers()
            self._flux = connect()
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
        out: TextIO | None = None
        error: TextIO | None = None
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
        """Wait for all answers and, if asked to, for all jobs. Return the exit code."""
        if self._flux is None or self._watch is None:
            return self.exit_code
        with self._flux:
            while self._outstanding:
                self._flux.dispatch(None)
            code = self._watch.run()
        for log in self._logs.values():
            log.close()
        return max(self.exit_code, code)


SUBMIT_OPTIONS = (*COMMON, *TASKS, *BULK)


def submit(options: Options, context: Context) -> int:
    """Submit a job or copies of it. With --wait or --watch, the exit code is the highest of the jobs."""
    request = Request.of(options, SUBMIT_OPTIONS)
    session = SubmitSession(request, len(copies_of(request)))
    session.submit(request)
    return session.finish()


BULKSUBMIT_OPTIONS = (
    *COMMON,
    *TASKS,
    *BULK,
    Option("shuffle", usage="Submit in random order"),
    Option("sep", argument="STRING", usage="What separates inputs: newline by default, 'none' for any white space"),
    Option("define", argument="NAME=CODE", usage="Name a Python expression on an input x, for {0.NAME}"),
)
_MARK = ":::"


def bulksubmit(options: Options, context: Context) -> int:
    """Submit a job for each combination of inputs."""
    request = Request.of(options, BULKSUBMIT_OPTIONS)
    methods = dict(_method(text) for text in request.all("define"))
    separator = (request.get("sep") or "\n").encode().decode("unicode_escape")
    template, lists, links = split_inputs(request.command, None if separator.lower() == "none" else separator)
    request.command = template or ["{}"]
    requests = [
        request.filled(inputs, methods, seq=number, seq1=number + 1, cc="{cc}")
        for number, inputs in enumerate(combine(lists, links))
    ]
    if request.has("shuffle"):
        import random

        random.shuffle(requests)
    total = sum(len(copies_of(each)) for each in requests)
    if not total:
        raise ValueError("no jobs provided for bulk submission")
    dry = request.has("dry-run")
    if dry and request.has("progress"):
        print(f"bulksubmit: submitting a total of {total} jobs")
    session = SubmitSession(request, total)
    for each in requests:
        if dry or request.has("verbose"):
            print(f"bulksubmit: submit {each}")
        if not dry:
            session.submit(each)
    return session.finish()


def _method(text: str) -> tuple[str, str]:
    name, equals, code = text.partition("=")
    if not equals:
        raise ValueError(f"--define: '{text}' is not NAME=CODE")
    try:
        compile(code, name, "eval")
    except SyntaxError as error:
        raise ValueError(f"--define: {name}: {error}") from None
    return name, code


def split_inputs(
    words: list[str], separator: str | None
) -> tuple[list[str], list[list[str]], list[tuple[int, list[str]]]]:
    """Return the command, its lists of inputs, and the linked lists with their places.

    ``:::`` begins a list, ``::::`` names a file of inputs, and a ``+`` at the end links the list to those before.
    If there is no list, inputs come from stdin.
    """
    starts = [index for index, word in enumerate(words) if word.startswith(_MARK)]
    command = words[: starts[0]] if starts else words
    lists: list[list[str]] = []
    links: list[tuple[int, list[str]]] = []
    for place, start in enumerate(starts):
        end = starts[place + 1] if place + 1 < len(starts) else len(words)
        mark, inputs = words[start], words[start + 1 : end]
        if mark.startswith(_MARK + ":"):
            if len(inputs) != 1:
                raise ValueError("Multiple args not allowed after ::::")
            inputs = _read_inputs(inputs[0], separator)
        if mark.endswith("+"):
            links.append((place, inputs))
        elif inputs:
            lists.append(inputs)
    if not lists:
        lists.append(_read_inputs("-", separator))
    return command, lists, links


def _read_inputs(path: str, separator: str | None) -> list[str]:
    if path == "-":
        text = sys.stdin.read()
    else:
        with open(path) as file:
            text = file.read()
    return [item for item in text.split(separator) if item]


def combine(lists: list[list[str]], links: list[tuple[int, list[str]]]) -> list[list[str]]:
    """Return every combination of the inputs. The inputs of a linked list repeat as needed."""
    from itertools import product

    combinations = [list(each) for each in product(*lists)]
    for place, inputs in links:
        for number, combination in enumerate(combinations):
            combination.insert(place, inputs[number % len(inputs)])
    return combinations


RUN_OPTIONS = (
    *COMMON,
    *TASKS,
    Option("wait-event", argument="NAME", usage="Leave at this event of the job"),
)


def run(options: Options, context: Context) -> int:
    """Submit a job and attach to it; the exit code is that of the job."""
    request = Request.of(options, RUN_OPTIONS)
    jobspec = make_jobspec(request)
    if request.has("dry-run"):
        print_jobspec(jobspec)
        return 0
    submission_flags(request), urgency_of(request)
    with connect() as flux:
        return attach(flux, submit_one(flux, request, jobspec), request)


def attach(flux: Flux, jobid: int, request: Request) -> int:
    """Attach to a new job as `flux job attach` does, and return the exit code."""
    from pytest_flux.cli.command import CommandError
    from pytest_flux.cli.commands.jobs.attach import AttachOptions, AttachSession

    outlive_readers()
    if request.has("verbose"):
        sys.stderr.write(f"jobid: {f58(jobid)}\n")
        sys.stderr.flush()
    how = AttachOptions(f58(jobid))
    how.label = request.has("label-io")
    how.show_events, how.show_exec = request.count("verbose") > 1, request.count("verbose") > 2
    how.wait_event = request.get("wait-event") or how.wait_event
    stdin = request.get("input")
    if stdin and is_idset(stdin):
        how.stdin_ranks = stdin
    try:
        return AttachSession(flux, jobid, how).run()
    except CommandError as error:
        # In Flux, `flux run` becomes `flux job attach` here, so errors have that name.
        sys.stderr.write(f"flux-job: {error}\n")
        return error.status


COMMANDS = (
    ArgumentCommand(
        "flux submit",
        submit,
        usage="[OPTIONS...] COMMAND [ARGS...]",
        summary="Submit a job",
        options=SUBMIT_OPTIONS,
        permute=False,
        rewrites=REWRITES,
    ),
    ArgumentCommand(
        "flux bulksubmit",
        bulksubmit,
        usage="[OPTIONS...] COMMAND [ARGS...]",
        summary="Submit a job for each input",
        options=BULKSUBMIT_OPTIONS,
        permute=False,
        rewrites=REWRITES,
    ),
    ArgumentCommand(
        "flux run",
        run,
        usage="[OPTIONS...] COMMAND [ARGS...]",
        summary="Run a job, with its output here",
        options=RUN_OPTIONS,
        permute=False,
        rewrites=REWRITES,
    ),
)
