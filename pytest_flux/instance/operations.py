"""Jobs and events of an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_flux.instance.errors import named
from pytest_flux.protocol.fluid import f58

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_flux.client import Flux
    from pytest_flux.client.job_result import JobOutput, JobResult
    from pytest_flux.protocol.message import Message


_T = TypeVar("_T")


class JobTimeout(TimeoutError):
    """A job has not done in time what was waited for. The text tells its story."""


class JobLookupError(LookupError):
    """A job has ended without the event that was waited for. The text tells its story."""


class Job:
    """A job of the instance. ``timeout``, in seconds, bounds every wait (TimeoutError)."""

    def __init__(self, jobid: int, connect: Callable[[], Flux], timeout: float) -> None:
        self.id = jobid
        # Each thread has its own connection, so a job asks for one at every call.
        self._connect = connect
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Job {f58(self.id)}>"

    def result(self, timeout: float | None = None) -> JobResult:
        """Wait until the job is inactive, and return its result: ``name``, ``exit_code``, ``check()``, ..."""
        return self._wait("ended", timeout, lambda flux, patience: flux.jobs.result(self.id, patience))

    def output(self, timeout: float | None = None) -> JobOutput:
        """Wait until the job is inactive, and return its output: ``stdout`` and ``stderr``, bytes."""
        return self._wait("ended", timeout, lambda flux, patience: flux.jobs.output(self.id, patience))

    def wait_event(self, name: str, timeout: float | None = None) -> Any:  # noqa: ANN401 - an RFC 18 event
        """Wait for an event in the job's main log."""

        def wait(flux: Flux, patience: float) -> Any:  # noqa: ANN401
            return flux.jobs.wait_event(self.id, name, timeout=patience)

        return self._wait(f"had the event {name!r}", timeout, wait)

    def cancel(self, note: str | None = None) -> None:
        """Cancel the job."""
        self._name(lambda flux: flux.jobs.cancel(self.id, note))

    def kill(self, signum: int = 15) -> None:
        """Send a signal to every task."""
        self._name(lambda flux: flux.jobs.kill(self.id, signum))

    def info(self) -> dict[str, Any]:
        """The job's attributes from the service `job-list`."""
        return self._name(lambda flux: flux.jobs.get(self.id))

    def story(self) -> str:
        """What is known of the job, for people: state, what it waits for, command, exceptions, output so far."""
        from pytest_flux.client.story import tell

        return tell(self._connect(), self.id)

    def _name(self, ask: Callable[[Flux], _T]) -> _T:
        """Ask about the job, and name it in errors."""
        return named(f"job {f58(self.id)}", lambda: ask(self._connect()))

    def _wait(self, what: str, timeout: float | None, ask: Callable[[Flux, float], _T]) -> _T:
        """Wait until the job has done ``what``. If it has not in time, or cannot any more, tell its story."""
        patience = self._patience(timeout)
        try:
            return self._name(lambda flux: ask(flux, patience))
        except TimeoutError:
            text = f"job {f58(self.id)} has not {what} within {patience:g} s"
            raise JobTimeout(f"{text}\n{self.story()}") from None
        except LookupError as error:
            raise JobLookupError(f"job {f58(self.id)}: {error}\n{self.story()}") from None

    def _patience(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout


class Events:
    """A subscription to events: iterate, or take one with :meth:`next`. It ends with its with statement."""

    def __init__(self, client: Flux, topic: str, timeout: float) -> None:
        self._client = client
        self._topic = topic
        self._timeout = timeout
        client.subscribe(topic)

    def __repr__(self) -> str:
        return f"<Events {self._topic!r}>"

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
        patience = self._timeout if timeout is None else timeout
        try:
            return self._client.event_recv(patience)
        except TimeoutError:
            raise TimeoutError(f"no event {self._topic!r} within {patience:g} s") from None

    def close(self) -> None:
        """Unsubscribe."""
        self._client.close()
