"""Jobs and events of an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_flux.client import Flux
    from pytest_flux.client.job_result import JobOutput, JobResult
    from pytest_flux.protocol.message import Message


class Job:
    """A job of the instance. ``timeout``, in seconds, bounds every wait (TimeoutError)."""

    def __init__(self, jobid: int, connect: Callable[[], Flux], timeout: float) -> None:
        self.id = jobid
        # Each thread has its own connection, so a job asks for one at every call.
        self._connect = connect
        self._timeout = timeout

    def __repr__(self) -> str:
        from pytest_flux.protocol.fluid import f58

        return f"<Job {f58(self.id)}>"

    def result(self, timeout: float | None = None) -> JobResult:
        """Wait until the job is inactive, and return its result: ``name``, ``exit_code``, ``check()``, ..."""
        return self._connect().jobs.result(self.id, self._patience(timeout))

    def output(self, timeout: float | None = None) -> JobOutput:
        """Wait until the job is inactive, and return its output: ``stdout`` and ``stderr``, bytes."""
        return self._connect().jobs.output(self.id, self._patience(timeout))

    def wait_event(self, name: str, timeout: float | None = None) -> Any:  # noqa: ANN401 - an RFC 18 event
        """Wait for an event in the job's main log."""
        return self._connect().jobs.wait_event(self.id, name, timeout=self._patience(timeout))

    def cancel(self, note: str | None = None) -> None:
        """Cancel the job."""
        self._connect().jobs.cancel(self.id, note)

    def kill(self, signum: int = 15) -> None:
        """Send a signal to every task."""
        self._connect().jobs.kill(self.id, signum)

    def info(self) -> dict[str, Any]:
        """The job's attributes from the service `job-list`."""
        return self._connect().jobs.get(self.id)

    def _patience(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout


class Events:
    """A subscription to events: iterate, or take one with :meth:`next`. It ends with its with statement."""

    def __init__(self, client: Flux, topic: str, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        client.subscribe(topic)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        while True:
            yield self.next()

    def next(self, timeout: float | None = None) -> Message:
        """Wait for the next event. Raises TimeoutError."""
        return self._client.event_recv(self._timeout if timeout is None else timeout)

    def close(self) -> None:
        """Unsubscribe."""
        self._client.close()
