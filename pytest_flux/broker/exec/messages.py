"""What a job, on rank 0, and its shells say to each other.

``Execution`` sends commands to each shell and gets reports from it. On one rank these are calls; between ranks they
are messages of the service ``job-shell``, which this module encodes and decodes:

* ``job-shell.start`` ``{id, userid, jobspec, R}`` starts a shell and is answered by its reports, ``{report,
  particulars}``, until the shell has ended;
* ``job-shell.command`` ``{id, command, particulars}`` has no answer.

The particulars are the fields of a report or command. flux-core has no such messages: its shells talk to each other
by events and by requests to the leading shell (src/shell/svc.c), and to job-exec by their standard output.
"""

from __future__ import annotations

import signal
from typing import Any, NamedTuple, TypeVar

from pytest_flux.protocol.errors import ProtocolError


class Ready(NamedTuple):
    """The tasks could begin."""


class Running(NamedTuple):
    """The tasks have begun."""


class OutputLines(NamedTuple):
    """Lines for ``guest.output``, which hold ``size`` bytes of a stream."""

    stream: str
    size: int
    text: str


class TaskExit(NamedTuple):
    """The first task of the shell has ended; ``info`` is the context of the event ``shell.task-exit``."""

    info: dict[str, Any]


class TasksDone(NamedTuple):
    """All tasks of the shell that leads the job have ended; it waits for Finish."""


class PmiBarrier(NamedTuple):
    """All tasks of the shell are in a PMI barrier; ``values`` is what they have put since the last one."""

    values: dict[str, str]


class StdinData(NamedTuple):
    """A client sends RFC 24 data with ``size`` bytes to tasks of the job."""

    io: dict[str, Any]
    size: int


class ExceptionNote(NamedTuple):
    """A task asks that the job be ended with an exception."""

    note: str


class GaveUp(NamedTuple):
    """The shell cannot go on. ``wait_status`` is that of the task at fault, if it was one."""

    note: str
    wait_status: int | None


class Exited(NamedTuple):
    """The shell has ended with this wait status: its last report."""

    status: int


Report = (
    Ready | Running | OutputLines | TaskExit | TasksDone | PmiBarrier | StdinData | ExceptionNote | GaveUp | Exited
)


class Run(NamedTuple):
    """Start the tasks: all shells are ready."""


class Kill(NamedTuple):
    """Signal all tasks."""

    signum: int


class Write(NamedTuple):
    """Pass RFC 24 data on to the standard input of tasks."""

    io: dict[str, Any]


class Exchange(NamedTuple):
    """End a PMI barrier: all shells are in it, and ``values`` is what their tasks have put."""

    values: dict[str, str]


class Log(NamedTuple):
    """Write a message into the job's output."""

    level: int
    message: str
    component: str


class Stored(NamedTuple):
    """Rank 0 has stored ``size`` characters of the shell's output."""

    size: int


class Die(NamedTuple):
    """Give up: the fields are those of ShellFailure."""

    text: str
    code: int = 1
    component: str = ""
    wait_status: int | None = None


class Finish(NamedTuple):
    """Exit: all other shells have ended. Only the leading shell waits for this."""


class Destroy(NamedTuple):
    """Kill the tasks, and end without waiting for them, as if the shell were a process that gets this signal."""

    signum: int = signal.SIGKILL


Command = Run | Kill | Write | Exchange | Log | Stored | Die | Finish | Destroy

_Said = TypeVar("_Said")

_REPORTS: dict[str, type[Report]] = {
    "ready": Ready,
    "running": Running,
    "output": OutputLines,
    "task-exit": TaskExit,
    "tasks-done": TasksDone,
    "pmi": PmiBarrier,
    "stdin": StdinData,
    "raise": ExceptionNote,
    "die": GaveUp,
    "exit": Exited,
}
_COMMANDS: dict[str, type[Command]] = {
    "run": Run,
    "kill": Kill,
    "write": Write,
    "exchange": Exchange,
    "log": Log,
    "stored": Stored,
    "die": Die,
    "finish": Finish,
    "destroy": Destroy,
}
_NAMES = {kind: name for table in (_REPORTS, _COMMANDS) for name, kind in table.items()}


def encode_report(report: Report) -> dict[str, Any]:
    """The payload of an answer to ``job-shell.start``."""
    return {"report": _NAMES[type(report)], "particulars": report._asdict()}


def decode_report(payload: dict[str, Any]) -> Report:
    """The report in such an answer. Raises ProtocolError."""
    return _decode(_REPORTS, payload.get("report"), payload.get("particulars"))


def encode_command(job_id: int, command: Command) -> dict[str, Any]:
    """The payload of ``job-shell.command``."""
    return {"id": job_id, "command": _NAMES[type(command)], "particulars": command._asdict()}


def decode_command(payload: dict[str, Any]) -> Command:
    """The command in such a request. Raises ProtocolError."""
    return _decode(_COMMANDS, payload.get("command"), payload.get("particulars"))


def _decode(table: dict[str, type[_Said]], name: object, particulars: object) -> _Said:
    kind = table.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(particulars, dict):
        raise ProtocolError("message between a job and its shell", str(name)[:40])
    try:
        return kind(**particulars)
    except TypeError:
        raise ProtocolError("message between a job and its shell lacks particulars", str(name)) from None
