"""Replay a trace on an instance whose time jumps: mock jobs of the same size and length, submitted when they were.

The client holds the clock (mode ``manual``) and moves it from one submission to the next; afterwards it lets time
jump until the last job has ended. Submissions of one moment are sent together. Jobs that have ended are read and
purged every ``_ROUND`` submissions, so a trace of years fits into memory on both sides.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from pytest_flux.client.jobs import Jobs
from pytest_flux.client.jobspec import MOCK_COMMAND, from_command, set_mock
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.trace import TraceJob, guess_format, parse_trace

if TYPE_CHECKING:
    from pytest_flux.client.connection import Connection, Rpc

_ROUND = 10_000
_PURGE_BATCH = 100
_WINDOW = 256
"""Requests on their way at a time."""
_INACTIVE = 64
_SHORT = 10.0
"""The bounded slowdown takes shorter jobs for this long, in seconds (Feitelson and Rudolph)."""

_DERIVED = ("wait", "turnaround", "bounded_slowdown")
"""What the table has of each job besides the fields of ReplayedJob."""

Path = str | os.PathLike[str]


class ReplayedJob(NamedTuple):
    """What has become of a job of the trace. Times are seconds from the start of the replay."""

    name: str
    user: str
    processors: int
    limit: float
    submit: float
    start: float
    end: float

    @property
    def wait(self) -> float:
        """Seconds from submission to start."""
        return self.start - self.submit

    @property
    def turnaround(self) -> float:
        """Seconds from submission to end."""
        return self.end - self.submit

    @property
    def bounded_slowdown(self) -> float:
        """The turnaround as a multiple of the runtime, as if no job were shorter than ten seconds; at least 1."""
        return max(self.turnaround / max(self.end - self.start, _SHORT), 1.0)


class Replay:
    """The result: ``jobs`` in the order of the trace, and what follows from them.

    ``processors`` is the number of all processors; ``refused`` has the names of jobs that could never run there.
    """

    def __init__(self, jobs: list[ReplayedJob], refused: list[str], processors: int) -> None:
        self.jobs = jobs
        self.refused = refused
        self.processors = processors

    def __repr__(self) -> str:
        return f"<Replay of {len(self.jobs)} jobs>"

    @property
    def makespan(self) -> float:
        """Seconds from the first submission to the last end."""
        if not self.jobs:
            return 0.0
        return max(job.end for job in self.jobs) - min(job.submit for job in self.jobs)

    def summary(self) -> dict[str, float]:
        """Numbers and means: ``jobs, refused, makespan, wait, turnaround, bounded_slowdown, utilisation``."""
        count = max(len(self.jobs), 1)
        busy = sum((job.end - job.start) * job.processors for job in self.jobs)
        return {
            "jobs": len(self.jobs),
            "refused": len(self.refused),
            "makespan": self.makespan,
            **{name: sum(getattr(job, name) for job in self.jobs) / count for name in _DERIVED},
            "utilisation": busy / (self.makespan * self.processors) if self.makespan else 0.0,
        }

    def utilisation(self) -> list[tuple[float, float]]:
        """The share of busy processors over time: each moment at which it changes, and its value from there on."""
        changes: dict[float, int] = {}
        for job in self.jobs:
            changes[job.start] = changes.get(job.start, 0) + job.processors
            changes[job.end] = changes.get(job.end, 0) - job.processors
        busy, steps = 0, []
        for moment, change in sorted(changes.items()):
            busy += change
            if change:
                steps.append((moment, busy / self.processors))
        return steps

    def table(self) -> list[dict[str, Any]]:
        """One dictionary for each job: the fields of ReplayedJob, and wait, turnaround and bounded_slowdown."""
        return [{**job._asdict(), **{name: getattr(job, name) for name in _DERIVED}} for job in self.jobs]

    def write_csv(self, file: TextIO) -> None:
        """Write the table as comma-separated values."""
        columns = [*ReplayedJob._fields, *_DERIVED]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.table())

    def to_frame(self) -> Any:  # noqa: ANN401 - pandas is optional
        """The table as a ``pandas.DataFrame``. Raises ImportError if pandas is not installed."""
        import pandas  # type: ignore[import-untyped,unused-ignore]

        return pandas.DataFrame(self.table())


class ReplayOptions(NamedTuple):
    """How to replay.

    ``first`` jobs are left out and at most ``most`` taken. Times between submissions are multiplied by ``spacing``,
    and the number of processors by ``scaling`` (rounded up). With ``whole_nodes`` a job gets a node, not a core, for
    each processor. ``banks`` maps users of the trace to banks.
    """

    first: int = 0
    most: int | None = None
    spacing: float = 1.0
    scaling: float = 1.0
    whole_nodes: bool = False
    banks: Mapping[str, str] | Callable[[str], str | None] | None = None

    def choose(self, jobs: Iterable[TraceJob]) -> Iterator[TraceJob]:
        """The jobs to replay, scaled, in the order of their submission. Their first is submitted at 0."""
        chosen = sorted(jobs, key=lambda job: job.submit)[self.first :][: self.most]
        for job in chosen:
            yield job._replace(
                submit=(job.submit - chosen[0].submit) * self.spacing,
                processors=max(1, -int(-job.processors * self.scaling // 1)),
            )

    def jobspec(self, job: TraceJob) -> dict[str, Any]:
        """The mock job for one of the trace."""
        nodes = job.processors if self.whole_nodes else None
        jobspec = from_command(
            MOCK_COMMAND,
            tasks=job.processors,
            nodes=nodes,
            exclusive=self.whole_nodes,
            duration=job.limit,
            environment={},
            cwd="/",
            bank=self._bank(job.user),
        )
        set_mock(jobspec, job.runtime)
        return jobspec

    def _bank(self, user: str) -> str | None:
        if self.banks is None:
            return None
        return self.banks.get(user) if isinstance(self.banks, Mapping) else self.banks(user)


def read_trace(path: Path, kind: str | None = None) -> list[TraceJob]:
    """Read a trace, which may be compressed by gzip. Raises OSError, ProtocolError."""
    with open(path, "rb") as start:
        is_compressed = start.peek(2)[:2] == b"\x1f\x8b"
        plain = gzip.GzipFile(fileobj=start) if is_compressed else start
        lines = io.TextIOWrapper(plain, errors="replace")
        try:
            first = next((line for line in lines if line.strip()), "")
            return list(parse_trace(itertools.chain([first], lines), kind or guess_format(first)))
        except ProtocolError as error:
            raise ProtocolError(f"{os.fspath(path)}: {error}") from None


def replay_on(flux: Connection, jobs: Iterable[TraceJob], options: ReplayOptions | None = None) -> Replay:
    """Replay jobs on a running instance. Raises FluxError ENOSYS if its time cannot be moved."""
    return _Replaying(flux, options or ReplayOptions()).run(jobs)


class _Replaying:
    def __init__(self, flux: Connection, options: ReplayOptions) -> None:
        self._flux = flux
        self._options = options
        self._jobs = Jobs(flux)
        state = flux.rpc("clock.now", nodeid=0).get()
        self._mode = str(state["mode"])
        self._zero = float(state["now"])
        self._submitted: dict[int, TraceJob] = {}
        self._ended: dict[int, ReplayedJob] = {}
        self._refused: list[str] = []
        self._order: list[int] = []

    def run(self, jobs: Iterable[TraceJob]) -> Replay:
        self._set_mode("manual")
        try:
            self._submit_all(self._options.choose(jobs))
            self._set_mode("auto")
            self._flux.rpc("job-manager.drain").get()
        finally:
            self._set_mode(self._mode)
        self._collect()
        ended = [self._ended[jobid] for jobid in self._order if jobid in self._ended]
        return Replay(ended, self._refused, self._processors())

    def _set_mode(self, mode: str) -> None:
        self._flux.rpc("clock.mode", {"mode": mode}, nodeid=0).get()

    def _submit_all(self, jobs: Iterable[TraceJob]) -> None:
        now = 0.0
        waiting: list[tuple[TraceJob, Rpc]] = []
        for number, job in enumerate(jobs, 1):
            if len(waiting) >= _WINDOW:
                self._admit(waiting)
            if job.submit > now:
                now = job.submit
                # Behind the submissions before it, whose answers need not be waited for.
                self._flux.rpc("clock.advance", {"to": self._zero + now}, nodeid=0).get()
            waiting.append((job, self._jobs.begin_submit(self._options.jobspec(job))))
            if number % _ROUND == 0:
                self._admit(waiting)
                self._collect()
        self._admit(waiting)

    def _admit(self, waiting: list[tuple[TraceJob, Rpc]]) -> None:
        for job, rpc in waiting:
            jobid = int(rpc.get()["id"])
            self._submitted[jobid] = job
            self._order.append(jobid)
        waiting.clear()

    def _collect(self) -> None:
        """Read what has ended, and purge it."""
        request = {
            "max_entries": 0,
            "attrs": ["t_submit", "t_run", "t_cleanup", "t_inactive"],
            "constraint": {"states": [_INACTIVE]},
        }
        for values in self._flux.rpc("job-list.list", request).get()["jobs"]:
            job = self._submitted.pop(values["id"], None)
            if job is None:
                continue
            if not values.get("t_run"):
                self._refused.append(job.name)
                continue
            moments = (round(values[name] - self._zero, 6) for name in ("t_submit", "t_run", "t_cleanup"))
            self._ended[values["id"]] = ReplayedJob(job.name, job.user, job.processors, job.limit, *moments)
        self._purge()

    def _purge(self) -> None:
        request = {"age_limit": -1.0, "num_limit": 0, "batch": _PURGE_BATCH, "force": True}
        while self._flux.rpc("job-manager.purge", request).get()["count"]:
            pass

    def _processors(self) -> int:
        from pytest_flux.client.resources import Resources

        everything = Resources(self._flux).list().all
        return max(1, everything.count("node" if self._options.whole_nodes else "core"))
