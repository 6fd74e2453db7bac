"""A ``flux.job.FluxExecutor`` on an instance, which ends when its with statement does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.instance.flux_instance import FluxInstance


@contextlib.contextmanager
def open_executor(instance: FluxInstance) -> Iterator[Any]:
    """An executor, whose jobs are cancelled at the end if they still run. Raises BindingsError.

    Its own ``shutdown`` waits for jobs that run, however long they take. Without waiting, its thread would lose the
    instance under it.
    """
    instance.handle()
    from flux.job import FluxExecutor

    futures: list[Any] = []

    class Executor(FluxExecutor):  # type: ignore[misc] # it has no types
        def _create_future(self, *what: Any) -> Any:  # noqa: ANN401
            futures.append(super()._create_future(*what))
            return futures[-1]

    def cancel(future: Any) -> None:  # noqa: ANN401
        # It may have ended by now.
        with contextlib.suppress(FluxError, RuntimeError):
            instance.job(int(future.jobid())).cancel()

    executor = Executor(handle_args=(instance.uri,))
    try:
        yield executor
    finally:
        for future in futures:
            if not future.done() and not future.cancel():
                future.add_jobid_callback(cancel)
        executor.shutdown()
