"""pytest-xdist: one instance for all workers, which ends with the controller, the process that started them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.plugin import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.instance.leased import SharedInstance
    from pytest_flux.instance.settings import Settings

_INPUT = "flux_shared"


def invite(config: pytest.Config, workerinput: dict[str, Any]) -> None:
    """In the controller: tell a worker the directory of the shared instances, and our process id."""
    directory = _directory(config)
    if directory is not None and hasattr(os, "pidfd_open"):
        workerinput[_INPUT] = (directory, os.getpid())


def _directory(config: pytest.Config) -> str | None:
    # Workers have their directories in this one as well; pytest removes old ones.
    factory = getattr(config, "_tmp_path_factory", None)
    return None if factory is None else f"{factory.getbasetemp()}/flux-shared"


def controller_pid(config: pytest.Config) -> int:
    """The process that has started this worker; 0 if this is not a worker."""
    invitation = getattr(config, "workerinput", {}).get(_INPUT)
    return 0 if invitation is None else int(invitation[1])


def shared_maker(config: pytest.Config) -> Callable[[Settings], SharedInstance] | None:
    """Return a function that attaches to the shared instance with given settings; None outside of workers.

    The function starts the instance if no worker has. It raises InstanceError. No instance outlives the controller: a
    pidfd is its lifeline.
    """
    invitation = getattr(config, "workerinput", {}).get(_INPUT)
    if invitation is None:
        return None
    directory, controller = invitation
    limit = options.value_of(config, "max_instances")

    def attach(settings: Settings) -> SharedInstance:
        from pytest_flux.instance.leased import SharedInstance
        from pytest_flux.instance.store import Store

        lifeline = os.pidfd_open(controller)
        try:
            return SharedInstance(settings, Store(directory, limit).lease(settings, lifeline))
        finally:
            os.close(lifeline)

    return attach


def group(items: list[pytest.Item]) -> None:
    """For ``--dist=loadgroup``: let the tests of one shape run in one worker, unless they have groups already."""
    from pytest_flux.instance.settings import describe
    from pytest_flux.plugin import shapes

    for item in items:
        if shapes.FIXTURE in getattr(item, "fixturenames", ()) and item.get_closest_marker("xdist_group") is None:
            wanted = shapes.of_item(item)
            if wanted is not None and not wanted.is_fresh:
                # The name becomes part of the test's id.
                item.add_marker(pytest.mark.xdist_group(_plain(describe(wanted.settings))))


def name_groups(items: list[pytest.Item]) -> None:
    """Add the groups to the ids of tests, by which pytest-xdist distributes them, if it has failed to do so.

    pytest-xdist 3.8 writes to ``item._nodeid``, which pytest 9.2 no longer reads.
    """
    for item in items:
        marks = list(item.iter_markers("xdist_group"))
        names = {str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks}
        suffix = f"@{'_'.join(sorted(names))}"
        node_id: Any = getattr(item, "_id", None)
        if names and node_id is not None and not item.nodeid.endswith(suffix):
            setattr(item, "_id", type(node_id).parse(item.nodeid + suffix))  # noqa: B010 - private to pytest


def _plain(text: str) -> str:
    return re.sub(r"[^\w=.,:-]+", "", text)


def stop_shared(config: pytest.Config) -> None:
    """In the controller, after all workers have ended: stop the shared instances."""
    directory = _directory(config)
    if directory is not None and os.path.isdir(directory):
        from pytest_flux.instance.store import Store

        Store(directory).stop_all()
