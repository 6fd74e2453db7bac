"""Jobs that are instances, asked about themselves: the fields ``instance.*`` of `flux jobs`."""

from __future__ import annotations

from pytest_flux.client import Flux
from pytest_flux.client.resources import ResourceList, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client.job_record import JobRecord

_KINDS = {"ncores": "core", "ngpus": "gpu", "nnodes": "node"}


class Instance:
    """Statistics and resources of one instance."""

    def __init__(self, stats: dict[str, Any], resources: ResourceList) -> None:
        self._states: dict[str, int] = stats["job_states"]
        self._stats = stats
        self._resources = resources

    def field(self, name: str) -> Any:  # noqa: ANN401
        """A field, empty if there is none of this name."""
        if name in ("utilization", "gpu_utilization"):
            kind = "core" if name == "utilization" else "gpu"
            total = self._resources.all.count(kind)
            return self._resources.allocated.count(kind) / total if total else ""
        if name == "progress":
            total = self._states["total"]
            return self._states["inactive"] / total if total else ""
        group, _, rest = name.partition(".")
        if group == "stats":
            return self._statistic(rest)
        state, _, count = rest.partition(".")
        if group == "resources" and state in ("all", "up", "down", "allocated", "free") and count in _KINDS:
            return self._resources.of(state).count(_KINDS[count])
        return ""

    def _statistic(self, name: str) -> Any:  # noqa: ANN401
        if not name:
            states = self._states
            pending = states["depend"] + states["priority"] + states["sched"]
            running = states["run"] + states["cleanup"]
            return f"PD:{pending} R:{running} CD:{self._stats['successful']} F:{self._stats['failed']}"
        return self._stats.get(name, self._states.get(name, ""))


def look_into(record: JobRecord) -> Instance | None:
    """The instance that a job is; None if it is none that can be asked."""
    if not record.uri or record.status != "RUN":
        return None
    try:
        with Flux(record.uri) as flux:
            return Instance(flux.jobs.stats(), Resources(flux).list())
    except (OSError, ValueError):
        return None
