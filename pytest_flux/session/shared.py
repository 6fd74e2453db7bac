"""pytest-xdist: one instance for all workers, which ends with the process that started the workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_flux.session.attached import AttachedInstance
    from pytest_flux.settings import Settings

_INPUT = "flux_shared"


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of several workers."""
    return hasattr(config, "workerinput")


def invite(config: pytest.Config, workerinput: dict[str, Any]) -> None:
    """In the controller: tell a worker where shared instances are written down, and who they belong to."""
    directory = _directory(config)
    if directory is not None and hasattr(os, "pidfd_open"):
        workerinput[_INPUT] = (directory, os.getpid())


def _directory(config: pytest.Config) -> str | None:
    # The directory that workers have theirs in as well; pytest looks after what is in it.
    factory = getattr(config, "_tmp_path_factory", None)
    return None if factory is None else f"{factory.getbasetemp()}/flux-shared"


def controller_pid(config: pytest.Config) -> int:
    """In a worker, the process that has started it; 0 where there is none."""
    invitation = getattr(config, "workerinput", {}).get(_INPUT)
    return 0 if invitation is None else int(invitation[1])


class SharedInstances:
    """Those of one run, as a worker sees them. None of them outlives the controller: a pidfd is their lifeline."""

    def __init__(self, directory: str, controller: int) -> None:
        from pytest_flux.session.store import Store

        self._store = Store(directory)
        self._controller = controller

    def attach(self, settings: Settings) -> AttachedInstance:
        """The instance with these settings; started, if nobody has. Raises InstanceError."""
        from pytest_flux.session.attached import AttachedInstance

        lifeline = os.pidfd_open(self._controller)
        try:
            record = self._store.find_or_start(settings, lifeline)
        finally:
            os.close(lifeline)
        return AttachedInstance(record.uri, settings, log=record.log, is_ours=True)


def shared_instances(config: pytest.Config) -> SharedInstances | None:
    """None where there are no workers to share with; Linux has what it takes."""
    invitation = getattr(config, "workerinput", {}).get(_INPUT)
    return None if invitation is None else SharedInstances(*invitation)


def stop_shared(config: pytest.Config) -> None:
    """In the controller, when all workers have ended: the last one out."""
    directory = _directory(config)
    if directory is not None and os.path.isdir(directory):
        from pytest_flux.session.store import Store

        Store(directory).stop_all()
