"""Jobs and events of an instance, as a test holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_flux.client import Flux
    from pytest_flux.client.job_result import JobOutput, JobResult
    from pytest_flux.protocol.message import Message
    from pytest_flux.session.surface import Surface


class Job:
    """A job of the instance. ``timeout``, in seconds, bounds every wait (TimeoutError)."""

    def __init__(self, surface: Surface, jobid: int) -> None:
        self.id = jobid
        self._surface = surface

    def __repr__(self) -> str:
        from pytest_flux.protocol.fluid import f58

        return f"<Job {f58(self.id)}>"

    def result(self, timeout: float | None = None) -> JobResult:
        """Wait until the job is inactive; how it came out: ``name``, ``exit_code``, ``check()``, ..."""
        return self._surface.client.jobs.result(self.id, self._surface.patience(timeout))

    def output(self, timeout: float | None = None) -> JobOutput:
        """Wait until the job is inactive; what it wrote: ``stdout`` and ``stderr``, bytes."""
        return self._surface.client.jobs.output(self.id, self._surface.patience(timeout))

    def wait_event(self, name: str, timeout: float | None = None) -> Any:  # noqa: ANN401 - an RFC 18 event
        """Wait for an event in the job's main log."""
        return self._surface.client.jobs.wait_event(self.id, name, timeout=self._surface.patience(timeout))

    def cancel(self, note: str | None = None) -> None:
        """Cancel the job."""
        self._surface.client.jobs.cancel(self.id, note)

    def kill(self, signum: int = 15) -> None:
        """Send a signal to every task."""
        self._surface.client.jobs.kill(self.id, signum)

    def info(self) -> dict[str, Any]:
        """What `job-list` knows of it."""
        return self._surface.client.jobs.get(self.id)


class Events:
    """Events of the instance, as they come: iterate, or take one with :meth:`next`. Leave the context to end it."""

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
        """The next event. Raises TimeoutError."""
        return self._client.event_recv(self._timeout if timeout is None else timeout)

    def close(self) -> None:
        """Unsubscribe."""
        self._client.close()
