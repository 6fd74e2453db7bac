"""The jobs of a dump."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.eventlog import Event, decode_eventlog
from pytest_flux.protocol.fluid import encode_fluid, kvs_key, parse_fluid
from pytest_flux.protocol.ioencode import StreamData, decode_io
from pytest_flux.protocol.job_state import INACTIVE, result_name, state_name
from pytest_flux.protocol.wait_status import exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flux.postmortem.kvs import DumpKvs


class DumpJob:
    """A job of a dump: the fields that `flux jobs` shows, its logs and its output.

    * ``id``; ``f58``, the id as people write it; ``name``, ``ntasks``, ``ncores``, ``nnodes``, ``nodelist``,
      ``ranks``, ``queue``, ``cwd``, ``duration``: None if unknown.
    * ``state`` (RUN, INACTIVE and so on), ``result`` (COMPLETED, FAILED, CANCELED, TIMEOUT; None before its end) and
      ``status``, which is the result, or else the state.
    * ``waitstatus``, as from waitpid(), and ``returncode``, as from a shell: None if the job never ran to an end.
    * ``exception``: type, severity and note of its gravest exception, or None.
    * ``t_submit`` and so on: seconds since 1970, 0 if that did not happen.
    * ``events``: of the main log; ``jobspec`` and ``R`` as objects, updates applied.
    """

    def __init__(
        self, kvs: DumpKvs, job_id: int, *, eventlog: bytes, jobspec: bytes, resources: bytes | None
    ) -> None:
        from pytest_flux.broker.jobs.restart import replay_job

        self._kvs = kvs
        job = replay_job(job_id, eventlog, jobspec, resources)
        self.id = job_id
        self.events: list[Event] = job.eventlog
        self.jobspec: dict[str, Any] = job.jobspec
        self.R: dict[str, Any] | None = job.R
        facts = job.facts
        self.name, self.ntasks, self.ncores, self.nnodes = facts.name, facts.ntasks, facts.ncores, facts.nnodes
        self.nodelist, self.ranks, self.queue, self.cwd = facts.nodelist, facts.ranks, facts.queue, facts.cwd
        self.duration, self.userid, self.urgency = facts.duration, job.userid, job.urgency
        self.state = state_name(job.state)
        self.result = result_name(job.result) if job.state == INACTIVE else None
        self.status = self.result or self.state
        self.waitstatus = job.wait_status if job.wait_status >= 0 else None
        self.returncode = None if self.waitstatus is None else exit_code(self.waitstatus)
        self.exception: tuple[str, int, str] | None = None
        if job.exception_type is not None:
            self.exception = job.exception_type, job.exception_severity, job.exception_note
        self.t_submit, self.t_run, self.t_cleanup, self.t_inactive = (
            job.t_submit,
            job.t_run,
            job.t_cleanup,
            job.t_inactive,
        )

    @property
    def f58(self) -> str:
        """The id as people write it."""
        return encode_fluid(self.id)

    def log(self, name: str = "guest.exec.eventlog") -> list[Event]:
        """Another of the job's logs; empty if it is missing. Raises ProtocolError for a damaged log."""
        try:
            data = _optional(self._kvs, kvs_key(self.id, name))
            return [] if data is None else decode_eventlog(data.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise ProtocolError(f"{name} is not UTF-8", self.f58) from None
        except FluxError as error:
            raise ProtocolError(f"{name}: {error.text or error.strerror}", self.f58) from None

    def output(self) -> list[StreamData]:
        """The output of tasks, piece by piece, in order. Raises ProtocolError for a damaged log."""
        return [decode_io(event.get("context")) for event in self.log("guest.output") if event["name"] == "data"]

    @property
    def stdout(self) -> bytes:
        """The standard output of all tasks."""
        return self._stream("stdout")

    @property
    def stderr(self) -> bytes:
        """The standard error of all tasks."""
        return self._stream("stderr")

    def _stream(self, name: str) -> bytes:
        return b"".join(piece.data for piece in self.output() if piece.stream == name)

    def __repr__(self) -> str:
        return f"<job {self.f58} {self.name}: {self.status}>"


def read_jobs(kvs: DumpKvs, complain: Callable[[str], None]) -> Iterator[DumpJob]:
    """All jobs. ``complain`` gets a line for each that cannot be read."""
    from pytest_flux.broker.jobs.restart import JobWalk

    def list_names(key: str) -> list[str]:
        try:
            return kvs.list(key)
        except FluxError as error:
            if key != "job" or "job" in kvs:
                complain(f"{key}: {error}")
            return []

    walk = JobWalk(list_names, *kvs.extent())
    try:
        for key in walk.keys():  # noqa: SIM118 - not a dictionary
            try:
                resources = _optional(kvs, f"{key}.R")
                eventlog, jobspec = kvs.get(f"{key}.eventlog"), kvs.get(f"{key}.jobspec")
            except FluxError as error:
                complain(f"{key}: {error}")
                continue
            walk.spend(eventlog, jobspec, resources)
            try:
                yield DumpJob(kvs, parse_fluid(key), eventlog=eventlog, jobspec=jobspec, resources=resources)
            except (ProtocolError, ValueError) as error:
                complain(f"{key}: {error}")
    except ProtocolError as error:
        complain(str(error))


def _optional(kvs: DumpKvs, key: str) -> bytes | None:
    try:
        return kvs.get(key)
    except FluxError as error:
        if error.errnum == errno.ENOENT:
            return None
        raise
