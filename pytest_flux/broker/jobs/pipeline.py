"""What a jobspec goes through at submission: frobnicators complete it, then validators check it.

flux-core starts Python workers for both (src/modules/job-ingest/pipeline.c); here their plugins are functions, which
``[ingest.frobnicator]`` and ``[ingest.validator]`` choose by name (flux-config-ingest(5)). The configuration is read
at each submission, because it may change at any time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.broker.jobs.limits import apply_constraints, apply_defaults
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import MAX_GENERATOR
from pytest_flux.protocol.job_state import FLAG_NOVALIDATE
from pytest_flux.protocol.jobspec import jobspec_counts, system_attributes, validate_jobspec
from pytest_flux.protocol.resource_pool import Infeasible

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.scheduler import Scheduler

_CORES_PER_NODE = 16
"""What flux-core's plugin require-instance takes a node for if only a number of nodes is configured."""

Jobspec = dict[str, Any]


class _Worker(NamedTuple):
    """One of the two tables."""

    plugins: list[str]
    arguments: dict[str, str]
    is_disabled: bool


def _worker(config: dict[str, Any], name: str, default: tuple[str, ...]) -> _Worker:
    table = config.get("ingest", {}).get(name, {})
    pairs = (text.removeprefix("--").partition("=") for text in table.get("args", []))
    plugins = [plugin for text in table.get("plugins", []) for plugin in text.split(",")]
    return _Worker(plugins or list(default), {key: value for key, _, value in pairs}, bool(table.get("disable")))


_CHECKS = ("jobspec", "schema", "feasibility", "require-instance")


def check_arguments(arguments: Mapping[str, str]) -> None:
    """Check the arguments of the module job-ingest. FluxError EINVAL."""
    for plugin in _words(arguments, "validator-plugins"):
        if plugin not in _CHECKS:
            text = f"an embedded broker has the validators {', '.join(_CHECKS)}; install flux-core for others"
            raise FluxError(errno.EINVAL, f"validator-plugins={plugin}: {text}")
    limit = arguments.get("max-fluid-generator-id", "0")
    if not limit.isdecimal() or int(limit) > MAX_GENERATOR:
        raise FluxError(errno.EINVAL, f"max-fluid-generator-id={limit}: it must be a number up to {MAX_GENERATOR}")


def _words(arguments: Mapping[str, str], name: str) -> list[str]:
    return [word for word in arguments.get(name, "").split(",") if word]


class Pipeline:
    """Completes and checks jobspecs. ``hosts`` returns the names of the instance's hosts.

    ``arguments`` are those of the module job-ingest, which come before the configuration.
    """

    def __init__(
        self,
        config: dict[str, Any],
        arguments: Mapping[str, str],
        scheduler: Scheduler,
        hosts: Callable[[], Collection[str]],
    ) -> None:
        self._config = config
        self._arguments = arguments
        self._scheduler = scheduler
        self._hosts = hosts

    def process(self, jobspec: Jobspec, flags: int) -> None:
        """Complete a jobspec in place, and check it. Raises FluxError or ProtocolError, in flux-core's words."""
        self._frobnicate(jobspec)
        worker = self._validator()
        if worker.is_disabled or flags & FLAG_NOVALIDATE:
            return
        checks = {
            "jobspec": self._check_jobspec,
            "schema": self._check_jobspec,
            "feasibility": self._check_feasibility,
            "require-instance": self._check_instance,
        }
        for plugin in worker.plugins:
            checks[plugin](jobspec, worker)

    def _validator(self) -> _Worker:
        worker = _worker(self._config, "validator", ("jobspec",))
        plugins, words = (_words(self._arguments, f"validator-{name}") for name in ("plugins", "args"))
        pairs = {key: value for key, _, value in (word.removeprefix("--").partition("=") for word in words)}
        disabled = worker.is_disabled or "disable-validator" in self._arguments
        return _Worker(plugins or worker.plugins, pairs or worker.arguments, disabled)

    def _frobnicate(self, jobspec: Jobspec) -> None:
        config = self._config
        is_needed = bool(config.get("queues") or config.get("policy", {}).get("jobspec", {}).get("defaults"))
        worker = _worker(config, "frobnicator", ("defaults", "constraints"))
        is_asked_for = bool(config.get("ingest", {}).get("frobnicator", {}).get("plugins"))
        if worker.is_disabled or not (is_needed or is_asked_for):
            return
        attributes = jobspec.get("attributes")
        if not isinstance(attributes, dict) or not isinstance(attributes.get("system"), dict):
            # There is no place for defaults; this says so.
            validate_jobspec(jobspec)
        for plugin in worker.plugins:
            {"defaults": apply_defaults, "constraints": apply_constraints}[plugin](config, jobspec)

    def _check_jobspec(self, jobspec: Jobspec, worker: _Worker) -> None:
        validate_jobspec(jobspec, self._hosts())

    def _check_feasibility(self, jobspec: Jobspec, worker: _Worker) -> None:
        try:
            self._scheduler.check(jobspec)
        except Infeasible as error:
            raise FluxError(errno.EOVERFLOW, str(error)) from None
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None

    def _check_instance(self, jobspec: Jobspec, worker: _Worker) -> None:
        """Refuse a large job that is not an instance of Flux."""
        table = self._config.get("ingest", {}).get("validator", {}).get("require-instance", {})
        nodes, cores = (
            int(worker.arguments.get(f"require-instance-{name}", table.get(name, 0)))
            for name in ("minnodes", "mincores")
        )
        if nodes > 0 and cores == 0:
            cores = _CORES_PER_NODE * nodes
        counts = jobspec_counts(jobspec)
        is_large = (counts.nnodes and counts.nnodes >= nodes) or counts.nslots * counts.cores_per_slot >= cores
        if not is_large or "batch" in system_attributes(jobspec):
            return
        try:
            program, *arguments = jobspec["tasks"][0]["command"]
            if os.path.basename(program) == "flux" and arguments[:1] in (["broker"], ["start"]):
                return
        except (LookupError, TypeError, ValueError):
            raise ProtocolError("a task has no command") from None
        limits = [f"{count} {what}" for count, what in ((nodes, "nodes"), (cores, "cores")) if count > 0]
        which = f"jobs >= {' or '.join(limits)}" if limits else "all jobs in this instance"
        text = f"Direct job submission disabled for {which}. Please use flux-batch(1) or flux-alloc(1)"
        raise FluxError(errno.EINVAL, text)
