"""pytest-xdist: one instance for all workers, which ends with the controller, the process that started them.

The lifeline of a shared instance is a descriptor that becomes readable when the controller ends, however it ends: a
pidfd. Workers that are tasks of a Flux job (:mod:`pytest_flux.plugin.flux_workers`) may be on other hosts, where the
process id means nothing. There, the lifeline is one more connection to the controller, on which nothing is ever sent.
The workers of one node share instances; the last of them that ends stops these.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.plugin import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flux.instance.leased import SharedInstance
    from pytest_flux.instance.settings import Settings
    from pytest_flux.plugin.flux_workers import FluxWorkers

_INPUT = "flux_shared"
_TASK = "flux_workers"
_WORKERS = pytest.StashKey["FluxWorkers"]()
_NODE = pytest.StashKey["_Node"]()
_DIAL_LIMIT = 30.0


# -- in the controller


def check(config: pytest.Config) -> None:
    """Raise UsageError if there are no workers that could be tasks."""
    if hasattr(config, "workerinput") or not options.value_of(config, "workers"):
        if options.value_of(config, "workers_args") and not options.value_of(config, "workers"):
            raise pytest.UsageError("--flux-workers-args: this has an effect with --flux-workers only")
        return
    if not config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError("--flux-workers: pytest-xdist is not installed")
    # `-n0` turns workers off, as always.
    if config.getoption("numprocesses", None) is None and not config.getoption("tx", None):
        raise pytest.UsageError("--flux-workers: how many? Add -n N, or -n auto for all cores of the instance")


def _workers_of(config: pytest.Config) -> FluxWorkers | None:
    """The workers that are tasks of a job; None if workers are local processes. Raises UsageError."""
    if hasattr(config, "workerinput") or not options.value_of(config, "workers"):
        return None
    workers = config.stash.get(_WORKERS, None)
    if workers is None:
        from pytest_flux.plugin.flux_workers import FluxWorkers, uri_of

        workers = config.stash[_WORKERS] = FluxWorkers(config, uri_of(config))
    return workers


def count(config: pytest.Config) -> int | None:
    """The number of workers for ``-n auto``, if it is for us to say."""
    workers = _workers_of(config)
    return None if workers is None else workers.count_cores()


def start(config: pytest.Config, specs: Sequence[Any]) -> None:
    """Start the workers of these specs."""
    workers = _workers_of(config)
    if workers is not None:
        session: Any = config.pluginmanager.get_plugin("dsession")
        workers.start(session.nodemanager.group, specs)


def explain(report: Any) -> None:  # noqa: ANN401 - with what pytest-xdist adds
    """Add to the report of a crash what is known of the worker."""
    node: Any = getattr(report, "node", None)
    workers: Any = None if node is None else node.config.stash.get(_WORKERS, None)
    if workers is not None:
        workers.explain(node.gateway.id, report)


def close(config: pytest.Config) -> None:
    """End the workers that are tasks of a job, and what they share."""
    workers = config.stash.get(_WORKERS, None)
    if workers is not None:
        workers.close()
    node = config.stash.get(_NODE, None)
    if node is not None:
        node.leave()


def invite(config: pytest.Config, workerinput: dict[str, Any]) -> None:
    """In the controller: tell a worker the directory of the shared instances, and our process id."""
    workers = config.stash.get(_WORKERS, None)
    if workers is not None:
        workerinput[_TASK] = workers.address
        return
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


# -- in a worker


def is_task(config: pytest.Config) -> bool:
    """Whether we are a worker that is a task of a job."""
    return _TASK in getattr(config, "workerinput", {})


def settle_here(config: pytest.Config) -> None:
    """In a worker that may be on another host: do not use a temporary directory that is not here."""
    option: Any = config.option
    if is_task(config) and option.basetemp and not os.path.isdir(os.path.dirname(option.basetemp)):
        option.basetemp = None


def shared_maker(config: pytest.Config) -> Callable[[Settings], SharedInstance] | None:
    """Return a function that attaches to the shared instance with given settings; None outside of workers.

    The function starts the instance if no worker has. It raises InstanceError. No instance outlives the controller.
    """
    workerinput = getattr(config, "workerinput", {})
    limit = options.value_of(config, "max_instances")
    if _TASK in workerinput:
        node = config.stash.get(_NODE, None)
        if node is None:
            node = config.stash[_NODE] = _Node(workerinput[_TASK])
        directory = node.directory

        def lifeline() -> int:
            from pytest_flux.launcher.rendezvous import LIFELINE, dial

            return dial(workerinput[_TASK], {LIFELINE: True}, _DIAL_LIMIT).detach()

    elif _INPUT in workerinput:
        directory, controller = workerinput[_INPUT]

        def lifeline() -> int:
            return os.pidfd_open(controller)

    else:
        return None

    def attach(settings: Settings) -> SharedInstance:
        from pytest_flux.instance.leased import SharedInstance
        from pytest_flux.instance.store import Store

        descriptor = lifeline()
        try:
            return SharedInstance(settings, Store(directory, limit).lease(settings, descriptor))
        finally:
            os.close(descriptor)

    return attach


class _Node:
    """The node that we are a worker on: a directory that all of its workers use, and the last of them removes."""

    def __init__(self, address: str) -> None:
        from pytest_flux.launcher.rendezvous import USERS, node_directory

        self.directory = node_directory(address)
        self._path = f"{self.directory}/{USERS}"
        self._lock = self._enter()

    def _enter(self) -> int:
        while True:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self._path), os.fstat(descriptor)):
                        return descriptor
                # The last worker has removed it just now.
                os.close(descriptor)

    def leave(self) -> None:
        """Stop the instances, and remove the directory, unless another worker uses them."""
        import shutil

        from pytest_flux.instance.store import Store

        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Store(self.directory).stop_all()
                shutil.rmtree(self.directory, ignore_errors=True)
        finally:
            os.close(self._lock)


# -- groups


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
