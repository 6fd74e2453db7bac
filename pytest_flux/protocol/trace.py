"""Traces of jobs that clusters have run: Standard Workload Format, Slurm's sacct, and Flux's own job lists.

SWF (version 2.2, Feitelson's Parallel Workloads Archive) has one job a line: 18 numbers with blanks between them, -1
for what is not known. Comments begin with a semicolon. ``sacct --parsable2`` has a header and columns with ``|``
between them; which of them there are is up to whoever has called it. Flux's own list is what ``flux jobs --json`` or
``job-list`` gives, one object a line or in one array ``jobs``.

What cannot be replayed is left out: jobs that never started, or ran for no time, or on no processors. ``TraceJob``
has times in seconds and keeps the order of the trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMATS = ("swf", "sacct", "flux")


class TraceJob(NamedTuple):
    """A job of a trace: ``submit`` on the trace's own clock, ``limit`` 0 for none, ``nodes`` 0 if not known."""

    name: str
    submit: float
    runtime: float
    processors: int
    limit: float = 0.0
    user: str = ""
    nodes: int = 0


def parse_trace(lines: Iterable[str], kind: str) -> Iterator[TraceJob]:
    """The jobs of a trace of one of the ``FORMATS``. Raises ProtocolError, with the line, for a malformed one."""
    parsers = {"swf": parse_swf, "sacct": parse_sacct, "flux": parse_flux}
    if kind not in parsers:
        raise ProtocolError(f"format of a trace: {kind!r}: one of {', '.join(FORMATS)} is expected")
    return parsers[kind](lines)


def guess_format(first: str) -> str:
    """The format of a trace whose first line this is."""
    text = first.lstrip()
    if text.startswith(("{", "[")):
        return "flux"
    return "sacct" if "|" in text and not text.startswith(";") else "swf"


def parse_swf(lines: Iterable[str]) -> Iterator[TraceJob]:
    """The jobs of a trace in Standard Workload Format."""
    for number, line in enumerate(lines, 1):
        words = line.partition(";")[0].split()
        if not words:
            continue
        try:
            submit, runtime = float(words[1]), float(words[3])
            allocated, requested = int(float(words[4])), int(float(words[7]))
            limit = float(words[8])
        except (ValueError, IndexError):
            raise ProtocolError(f"line {number}: 18 numbers are expected", line[:80].strip()) from None
        processors = requested if requested > 0 else allocated
        if runtime > 0 and processors > 0:
            user = words[11] if len(words) > 11 and words[11] != "-1" else ""
            yield TraceJob(words[0], submit, runtime, processors, max(limit, 0.0), user)


def parse_sacct(lines: Iterable[str]) -> Iterator[TraceJob]:
    """The jobs in the output of ``sacct --parsable2``: at least JobID, Submit, NCPUS, and Elapsed or ElapsedRaw."""
    header: list[str] = []
    for number, line in enumerate(lines, 1):
        words = line.rstrip("\n").split("|")
        if not header:
            header = words
            missing = [name for name in ("JobID", "Submit", "NCPUS") if name not in header]
            if missing or not {"Elapsed", "ElapsedRaw"} & set(header):
                raise ProtocolError(f"sacct: no column {', '.join(missing) or 'Elapsed'}", line[:80].strip())
            continue
        row = dict(zip(header, words, strict=False))
        if "." in row["JobID"] or len(words) < len(header):
            # A step of a job.
            continue
        try:
            job = _from_row(row)
        except ValueError:
            raise ProtocolError(f"line {number} of sacct is malformed", line[:80].strip()) from None
        if job.runtime > 0 and job.processors > 0:
            yield job


def _from_row(row: dict[str, str]) -> TraceJob:
    runtime = float(row["ElapsedRaw"]) if "ElapsedRaw" in row else _slurm_time(row["Elapsed"])
    # In minutes, and empty if there is no limit.
    raw_limit = row.get("TimelimitRaw")
    return TraceJob(
        row["JobID"],
        _slurm_date(row["Submit"]),
        runtime,
        int(row["NCPUS"] or 0),
        _slurm_time(row.get("Timelimit", "")) if raw_limit is None else float(raw_limit or 0) * 60,
        row.get("User", ""),
        int(row.get("NNodes") or 0),
    )


def parse_flux(lines: Iterable[str]) -> Iterator[TraceJob]:
    """The jobs of a list as ``flux jobs -a --json`` prints it."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
            for values in found.get("jobs", [found]):
                job = _from_list(values)
                if job is not None:
                    yield job
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ProtocolError(f"line {number}: no job of Flux", line[:80].strip()) from None


def _from_list(values: dict[str, Any]) -> TraceJob | None:
    begin, end = float(values.get("t_run") or 0), float(values.get("t_cleanup") or 0)
    if not 0 < begin < end:
        return None
    return TraceJob(
        str(values["id"]),
        float(values["t_submit"]),
        end - begin,
        int(values.get("ncores") or values.get("ntasks") or 1),
        float(values.get("duration") or 0.0),
        str(values.get("username") or values.get("userid", "")),
        int(values.get("nnodes") or 0),
    )


def _slurm_time(text: str) -> float:
    """``[DAYS-][HOURS:]MINUTES:SECONDS[.FRACTION]`` in seconds; 0 for a word such as UNLIMITED. ValueError."""
    if not text or text[0].isalpha():
        return 0.0
    days, dash, rest = text.rpartition("-")
    seconds = 0.0
    for part in (rest if dash else text).split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + (int(days) * 86400 if dash else 0)


def _slurm_date(text: str) -> float:
    from datetime import datetime, timezone

    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
