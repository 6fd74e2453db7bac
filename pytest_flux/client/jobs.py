"""Jobs through a handle: submit, watch, control, list.

``flux.jobs`` is cheap. Jobs are known by their ids, integers (RFC 19); ``protocol.fluid`` has their other forms.
Errors are FluxError with the service's errno and words: ENOENT for an unknown job, EINVAL for a malformed
jobspec or a request that comes too late, EPERM for another user's job.
"""

from __future__ import annotations

import errno
import os

from pytest_flux.client.job_follow import CANCEL_TOPIC, MAIN, WAIT_FOR_CREATION, JobFollower, events_of, watch_log
from pytest_flux.client.job_result import JobOutput, JobResult
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import URGENCY_DEFAULT
from pytest_flux.protocol.message import encode_json
from pytest_flux.protocol.signed_jobspec import sign_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from pytest_flux.client.connection import Connection, Rpc
    from pytest_flux.protocol.eventlog import Event

    Jobspec = Mapping[str, Any] | str | bytes

ANY_USER = 0xFFFFFFFF
ANY_JOB = -1


def signed_request(jobspec: Jobspec, urgency: int, flags: int) -> dict[str, Any]:
    """The request that submits a jobspec (RFC 14: object, or its JSON text), signed as ours."""
    if isinstance(jobspec, str):
        data = jobspec.encode("utf-8", "surrogateescape")
    else:
        data = jobspec if isinstance(jobspec, bytes) else encode_json(dict(jobspec)).rstrip(b"\0")
    return {"J": sign_none(data, os.getuid()), "urgency": urgency, "flags": flags}


class Jobs:
    """The jobs of the instance that a handle is connected to."""

    def __init__(self, flux: Connection) -> None:
        self.flux = flux

    # -- submission

    def begin_submit(self, jobspec: Jobspec, *, urgency: int = URGENCY_DEFAULT, flags: int = 0) -> Rpc:
        """Send a jobspec (RFC 14: object, or its JSON text) without waiting; the answer is ``{id}``."""
        return self.flux.rpc("job-ingest.submit", signed_request(jobspec, urgency, flags))

    def submit(self, jobspec: Jobspec, *, urgency: int = URGENCY_DEFAULT, flags: int = 0) -> int:
        """Submit a job. Returns its id."""
        return int(self.begin_submit(jobspec, urgency=urgency, flags=flags).get()["id"])

    def run(self, command: list[str], *, timeout: float | None = None, **how: Any) -> JobOutput:  # noqa: ANN401
        """Submit a command, wait for it and return what it wrote. Raises JobFailed.

        ``how`` are arguments of :func:`pytest_flux.client.jobspec.from_command`.
        """
        from pytest_flux.client.jobspec import from_command

        follower, output, result = self._collect(self.submit(from_command(command, **how)))
        self._finish(follower, timeout)
        result.check()
        return output

    # -- watching

    def watch(
        self, jobid: int, path: str = MAIN, *, wait: bool = False, timeout: float | None = None
    ) -> Iterator[Event]:
        """The events of one of the job's logs, until it is complete; ``timeout`` bounds each wait, in seconds.

        With ``wait`` the log need not exist yet. Leaving the iteration ends the watching.
        """
        rpc = watch_log(self.flux, jobid, path, WAIT_FOR_CREATION if wait else 0)
        try:
            while True:
                try:
                    answer = rpc.get(timeout)
                except FluxError as error:
                    if error.errnum != errno.ENODATA:
                        raise
                    return
                yield from events_of(answer)
        finally:
            if not rpc.finished:
                rpc.cancel(CANCEL_TOPIC)
                rpc.abandon()

    def wait_event(self, jobid: int, name: str, path: str = MAIN, timeout: float | None = None) -> Event:
        """The first event of that name. Raises LookupError if the log ends without, TimeoutError."""
        for event in self.watch(jobid, path, wait=path != MAIN, timeout=timeout):
            if event["name"] == name:
                return event
        raise LookupError(f"event '{name}' never received")

    def result(self, jobid: int, timeout: float | None = None) -> JobResult:
        """Wait until the job is inactive. Returns its result."""
        result = JobResult(jobid)
        for event in self.watch(jobid, timeout=timeout):
            result.add(event)
        return result

    def output(self, jobid: int, timeout: float | None = None) -> JobOutput:
        """Wait until the job is inactive. Returns its output."""
        follower, output, _ = self._collect(jobid)
        self._finish(follower, timeout)
        return output

    def _collect(self, jobid: int) -> tuple[JobFollower, JobOutput, JobResult]:
        from pytest_flux.protocol.ioencode import decode_io

        follower, output, result = JobFollower(self.flux, jobid), JobOutput(), JobResult(jobid)
        pieces: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

        def take(event: Event) -> None:
            if event["name"] == "data":
                io = decode_io(event["context"])
                pieces.setdefault(io.stream, []).append(io.data)
            elif event["name"] == "redirect":
                output.redirects.append(event["context"])
            elif event["name"] == "log":
                output.log.append(event["context"])

        def join() -> None:
            output.stdout, output.stderr = b"".join(pieces["stdout"]), b"".join(pieces["stderr"])

        follower.on_event, follower.on_output, follower.on_done = result.add, take, join
        follower.start()
        return follower, output, result

    def _finish(self, follower: JobFollower, timeout: float | None) -> None:
        import time

        deadline = None if timeout is None else time.monotonic() + timeout
        while not follower.done:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                follower.detach()
                raise TimeoutError(f"job {follower.jobid} has not ended within {timeout:g} s")
            self.flux.dispatch(left)
        if follower.error is not None:
            raise follower.error

    def wait(self, jobid: int = ANY_JOB, timeout: float | None = None) -> dict[str, Any]:
        """Wait for a job that was submitted WAITABLE: ``{id, success, errstr}``. Raises ECHILD if there is none."""
        return self.flux.rpc("job-manager.wait", {"id": jobid}).get(timeout)

    # -- control

    def begin_raise(self, jobid: int, kind: str = "cancel", severity: int = 0, note: str | None = None) -> Rpc:
        """Send an exception without waiting."""
        request: dict[str, Any] = {"id": jobid, "type": kind, "severity": severity}
        if note is not None:
            request["note"] = note
        return self.flux.rpc("job-manager.raise", request)

    def cancel(self, jobid: int, note: str | None = None) -> None:
        """Cancel a job: an exception of type ``cancel`` and severity 0."""
        self.begin_raise(jobid, note=note).get()

    def raise_exception(self, jobid: int, kind: str, severity: int = 0, note: str | None = None) -> None:
        """Raise an exception (RFC 21); severity 0 ends the job."""
        self.begin_raise(jobid, kind, severity, note).get()

    def begin_kill(self, jobid: int, signum: int = 15) -> Rpc:
        """Send a signal without waiting."""
        return self.flux.rpc("job-manager.kill", {"id": jobid, "signum": signum})

    def kill(self, jobid: int, signum: int = 15) -> None:
        """Send a signal to every task."""
        self.begin_kill(jobid, signum).get()

    def urgency(self, jobid: int, urgency: int) -> int:
        """Set the urgency, 0 (held) to 31. Returns the one before."""
        answer = self.flux.rpc("job-manager.urgency", {"id": jobid, "urgency": urgency}).get()
        return int(answer["old_urgency"])

    def memo(self, jobid: int, memo: Mapping[str, Any], *, volatile: bool = False) -> None:
        """Attach values to a job. Its annotations show them below ``user``. None removes a value."""
        request = {"id": jobid, "volatile": volatile, "memo": dict(memo)}
        self.flux.rpc("job-manager.memo", request).get()

    def update(self, jobid: int, updates: Mapping[str, Any]) -> None:
        """Change a jobspec, by dotted paths: ``{"attributes.system.duration": 60.0}``."""
        self.flux.rpc("job-manager.update", {"id": jobid, "updates": dict(updates)}).get()

    # -- questions

    def lookup(self, jobid: int, *keys: str, flags: int = 0) -> dict[str, Any]:
        """Values from the job's directory in the KVS: ``eventlog``, ``jobspec``, ``R``, ``guest.output``, ..."""
        request = {"id": jobid, "keys": list(keys), "flags": flags}
        return self.flux.rpc("job-info.lookup", request).get()

    def get(self, jobid: int, attrs: Iterable[str] = ("all",)) -> dict[str, Any]:
        """The attributes of one job, from `job-list`."""
        found: dict[str, Any] = self.flux.rpc("job-list.list-id", {"id": jobid, "attrs": list(attrs)}).get()["job"]
        return found

    def list(
        self,
        attrs: Iterable[str] = ("all",),
        *,
        constraint: Mapping[str, Any] | None = None,
        max_entries: int = 0,
        since: float = 0.0,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        """The attributes of all jobs that fulfil a constraint (RFC 31), from `job-list`; 0 entries means all.

        Raises TimeoutError if there is no answer within ``timeout`` seconds.
        """
        request: dict[str, Any] = {"max_entries": max_entries, "attrs": list(attrs), "since": since}
        request["constraint"] = dict(constraint) if constraint is not None else {"and": []}
        rpc = self.flux.rpc("job-list.list", request, streaming=True, timeout=timeout)
        return [job for answer in rpc for job in answer["jobs"]]

    def last(self, slice_text: str = "[:1]") -> tuple[int, ...]:
        """Our jobs, the latest first; the slice is Python's."""
        answer = self.flux.rpc("job-manager.history.get", {"slice": slice_text}).get()
        return tuple(answer["jobs"])

    def stats(self) -> dict[str, Any]:
        """How many jobs there are, by state and result."""
        return self.flux.rpc("job-list.job-stats", {}).get()
