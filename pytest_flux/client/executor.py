"""Jobs as futures: a ``concurrent.futures.Executor`` of jobspecs, like flux-core's ``FluxExecutor``."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from concurrent.futures import CancelledError, Executor, Future

from pytest_flux.client.handle import Flux
from pytest_flux.client.job_follow import JobFollower
from pytest_flux.client.job_result import JobResult
from pytest_flux.client.jobs import URGENCY_DEFAULT
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.client.jobs import Jobspec
    from pytest_flux.client.rpc import Rpc
    from pytest_flux.protocol.eventlog import Event

    EventCallback = Callable[["JobFuture", Event], object]


class JobError(RuntimeError):
    """A fatal exception (RFC 21) ended a job before it ran; the text has its type and note."""


class JobFuture(Future[int]):
    """A job: its result is its return code, negative for a signal; its exception JobError or FluxError."""

    def __init__(self, executor: JobExecutor) -> None:
        super().__init__()
        self._executor = executor
        self._jobid: Future[int] = Future()
        self._events: list[Event] = []
        self._callbacks: dict[str | None, list[EventCallback]] = {}
        self._lock = threading.Lock()

    def jobid(self, timeout: float | None = None) -> int:
        """The job's id, once it is submitted. Raises TimeoutError, CancelledError, FluxError for what is refused."""
        return self._jobid.result(timeout)

    def add_jobid_callback(self, callback: Callable[[JobFuture], object]) -> None:
        """Call back when the id is known, or never will be; at once if that is so already."""
        self._jobid.add_done_callback(lambda _: callback(self))

    def add_event_callback(self, name: str | None, callback: EventCallback) -> None:
        """Call back for each event of that name, None for all; also for those that have been."""
        with self._lock:
            self._callbacks.setdefault(name, []).append(callback)
            past = list(self._events)
        for event in past:
            if name in (None, event["name"]):
                callback(self, event)

    def events(self) -> list[Event]:
        """The events so far."""
        with self._lock:
            return list(self._events)

    def cancel(self) -> bool:
        """Do not submit the job, or else cancel it; whether it will never run is known when the future is done."""
        if super().cancel():
            self._jobid.cancel()
            return True
        if not self.done():
            self._executor._ask_to_cancel(self)
        return False

    def _event(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            callbacks = [*self._callbacks.get(event["name"], ()), *self._callbacks.get(None, ())]
        for callback in callbacks:
            callback(self, event)


class JobExecutor(Executor):
    """Submits jobspecs from a thread of its own, which follows the jobs and completes their futures."""

    def __init__(self, uri: str | None = None) -> None:
        self._flux = Flux(uri)
        self._orders: deque[Callable[[], None]] = deque()
        self._wakeup = os.pipe()
        self._active: set[JobFuture] = set()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="flux-executor", daemon=True)
        self._thread.start()

    def submit(  # type: ignore[override]
        self, jobspec: Jobspec, /, *, urgency: int = URGENCY_DEFAULT, flags: int = 0
    ) -> JobFuture:
        """Submit a job. Raises RuntimeError after ``shutdown``."""
        future = JobFuture(self)
        with self._lock:
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._active.add(future)
            self._orders.append(lambda: self._begin(future, jobspec, urgency, flags))
        os.write(self._wakeup[1], b"x")
        return future

    def map(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        """Not for jobs: submit them one by one. Raises NotImplementedError."""
        raise NotImplementedError("submit jobspecs one by one")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; wait for those there are, which are cancelled first if told to."""
        with self._lock:
            if self._closing and not self._thread.is_alive():
                return
            self._closing = True
            futures = list(self._active) if cancel_futures else []
        for future in futures:
            future.cancel()
        os.write(self._wakeup[1], b"x")
        if wait:
            self._thread.join()

    # -- in the thread

    def _run(self) -> None:
        poll = select.poll()
        for fd in (self._flux.fileno(), self._wakeup[0]):
            poll.register(fd, select.POLLIN)
        try:
            while not (self._closing and not self._active and not self._orders):
                for fd, _ in poll.poll():
                    if fd == self._wakeup[0]:
                        os.read(fd, 4096)
                while self._orders:
                    self._orders.popleft()()
                self._flux.dispatch()
                self._active = {future for future in self._active if not future.done()}
        except OSError as error:
            self._fail(error)
        finally:
            self._flux.close()
            for fd in self._wakeup:
                os.close(fd)

    def _fail(self, error: OSError) -> None:
        """The broker is gone: nothing will come of what is not done."""
        with self._lock:
            self._closing = True
        for future in self._active:
            for each in (future._jobid, future):
                if not each.done():
                    each.set_exception(error)

    def _begin(self, future: JobFuture, jobspec: Jobspec, urgency: int, flags: int) -> None:
        if not future.set_running_or_notify_cancel():
            return
        rpc = self._flux.jobs.begin_submit(jobspec, urgency=urgency, flags=flags)
        rpc.then(lambda rpc: self._submitted(future, rpc))

    def _submitted(self, future: JobFuture, rpc: Rpc) -> None:
        try:
            jobid = int(rpc.get()["id"])
        except FluxError as error:
            future._jobid.set_exception(error)
            future.set_exception(error)
            return
        follower, result = JobFollower(self._flux, jobid), JobResult(jobid)

        def take(event: Event) -> None:
            result.add(event)
            future._event(event)

        follower.on_event, follower.on_exec, follower.on_output = take, None, None
        follower.on_done = lambda: _complete(future, follower, result)
        follower.start()
        future._jobid.set_result(jobid)

    def _ask_to_cancel(self, future: JobFuture) -> None:
        def cancel() -> None:
            try:
                jobid = future.jobid(0)
            except (FluxError, TimeoutError, CancelledError):
                # Submitted, but not answered yet: again when it is.
                future.add_jobid_callback(lambda future: self._ask_to_cancel(future) if not future.done() else None)
                return
            self._flux.jobs.begin_raise(jobid).abandon()

        self._orders.append(cancel)
        try:
            os.write(self._wakeup[1], b"x")
        except OSError:
            return  # the thread has ended, and with it the job


def _complete(future: JobFuture, follower: JobFollower, result: JobResult) -> None:
    if follower.error is not None:
        future.set_exception(follower.error)
    elif result.waitstatus is None:
        values = result.values
        future.set_exception(JobError(f"{values.get('exception_type')}: {values.get('exception_note', '')}"))
    else:
        future.set_result(result.return_code)
