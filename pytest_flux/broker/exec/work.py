"""What the job manager hands over: one job to be executed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.start import Callbacks


class Work(NamedTuple):
    """``jobspec`` has its environment. ``callbacks`` are told how it goes, ``done`` that nothing is left to do."""

    job_id: int
    userid: int
    jobspec: dict[str, Any]
    resources: dict[str, Any]
    callbacks: Callbacks
    done: Callable[[], None]

    def release(self) -> None:
        """All is over."""
        self.done()
        self.callbacks.released("all", final=True)
