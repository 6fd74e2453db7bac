"""Jobs as futures: a ``concurrent.futures.Executor`` of jobspecs, like flux-core's ``FluxExecutor``."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress

from pytest_flux.client.handle import Flux
from pytest_flux.client.job_follow import JobFollower
from pytest_flux.client.job_result import JobResult
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import URGENCY_DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.client.connection import Rpc
    from pytest_flux.client.jobs import Jobspec
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
        """The job's id, once it is submitted. Raises TimeoutError, CancelledError, FluxError if it was refused."""
        return self._jobid.result(timeout)

    def add_jobid_callback(self, callback: Callable[[JobFuture], object]) -> None:
        """Call back when the id is known, or it is known that there will be none; at once if so already."""
        self._jobid.add_done_callback(lambda _: callback(self))

    def add_event_callback(self, name: str | None, callback: EventCallback) -> None:
        """Call back for each event of that name (None: for all), including past ones."""
        with self._lock:
            self._callbacks.setdefault(name, []).append(callback)
            past = list(self._events)
        for event in past:
            if name in (None, event["name"]):
                self._call(callback, event)

    def events(self) -> list[Event]:
        """The events so far."""
        with self._lock:
            return list(self._events)

    def cancel(self) -> bool:
        """Cancel the job, before or after its submission. Only when the future is done is it known whether it ran."""
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
            self._call(callback, event)

    def _call(self, callback: EventCallback, event: Event) -> None:
        try:
            callback(self, event)
        except Exception:
            # As with the callbacks of any future, an error of one must not affect the others.
            import logging

            logging.getLogger(__name__).exception("exception calling callback for %r", self)


class JobExecutor(Executor):
    """Submits jobspecs from a thread, which also follows the jobs and completes their futures."""

    def __init__(self, uri: str | None = None) -> None:
        self._flux = Flux(uri)
        self._orders: deque[Callable[[], None]] = deque()
        self._wakeup = os.pipe()
        for fd in self._wakeup:
            os.set_blocking(fd, False)
        self._active: set[JobFuture] = set()
        self._is_over = False
        self._closing = False
        # A future that is done is removed in the thread that completed it.
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="flux-executor", daemon=True)
        self._thread.start()

    def submit(  # type: ignore[override]
        self, jobspec: Jobspec, /, *, urgency: int = URGENCY_DEFAULT, flags: int = 0
    ) -> JobFuture:
        """Submit a job. Errors of the jobspec come from its future. Raises RuntimeError after ``shutdown``."""
        future = JobFuture(self)
        self._order(lambda: self._begin(future, jobspec, urgency, flags), future)
        return future

    def attach(self, jobid: int) -> JobFuture:
        """The future of a job that was submitted elsewhere. Raises RuntimeError after ``shutdown``."""
        future = JobFuture(self)
        self._order(lambda: self._follow(future, jobid) if future.set_running_or_notify_cancel() else None, future)
        return future

    def _order(self, order: Callable[[], None], future: JobFuture | None = None) -> None:
        """Give the thread something to do."""
        with self._lock:
            if future is not None:
                if self._closing:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                self._active.add(future)
                future.add_done_callback(self._forget)
            if not self._is_over:
                self._orders.append(order)
                # If the pipe is full, the thread will wake up in any case.
                with suppress(BlockingIOError):
                    os.write(self._wakeup[1], b"x")

    def _forget(self, future: Future[int]) -> None:
        with self._lock:
            self._active.discard(future)

    def map(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        """Not for jobs: submit them one by one. Raises NotImplementedError."""
        raise NotImplementedError("submit jobspecs one by one")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more jobs. With ``cancel_futures`` cancel the pending ones; with ``wait`` wait for them."""
        with self._lock:
            self._closing = True
            futures = list(self._active) if cancel_futures else []
        for future in futures:
            future.cancel()
        self._order(lambda: None)
        if wait and threading.current_thread() is not self._thread:
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
        except Exception as error:  # noqa: BLE001, on any error, nobody must wait for a job for ever
            self._fail(error)
        finally:
            with self._lock:
                self._is_over = True
                self._flux.close()
                for fd in self._wakeup:
                    os.close(fd)

    def _fail(self, error: Exception) -> None:
        """Give the error to all futures that are not done, for example if the broker is gone."""
        with self._lock:
            self._closing = True
            active = list(self._active)
        for future in active:
            if not future.running() and not future.set_running_or_notify_cancel():
                continue
            for each in (future._jobid, future):
                if not each.done():
                    each.set_exception(error)

    def _begin(self, future: JobFuture, jobspec: Jobspec, urgency: int, flags: int) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            rpc = self._flux.jobs.begin_submit(jobspec, urgency=urgency, flags=flags)
        except (TypeError, ValueError, KeyError) as error:
            # It cannot be written as JSON, or is not a jobspec.
            future._jobid.set_exception(error)
            future.set_exception(error)
            return
        rpc.then(lambda rpc: self._submitted(future, rpc))

    def _submitted(self, future: JobFuture, rpc: Rpc) -> None:
        try:
            jobid = int(rpc.get()["id"])
        except FluxError as error:
            future._jobid.set_exception(error)
            future.set_exception(error)
            return
        self._follow(future, jobid)

    def _follow(self, future: JobFuture, jobid: int) -> None:
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
                # Submitted, but not answered yet: try again then.
                future.add_jobid_callback(lambda future: self._ask_to_cancel(future) if not future.done() else None)
                return
            self._flux.jobs.begin_raise(jobid).abandon()

        self._order(cancel)


def _complete(future: JobFuture, follower: JobFollower, result: JobResult) -> None:
    if follower.error is not None:
        future.set_exception(follower.error)
    elif result.waitstatus is None:
        values = result.values
        future.set_exception(JobError(f"{values.get('exception_type')}: {values.get('exception_note', '')}"))
    else:
        future.set_result(result.return_code)
