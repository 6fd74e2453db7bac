"""rc1 of the personality `job`, for `flux modprobe run`: what it takes to run jobs, on cores that are made up."""

import os
from typing import Any

import flux.kvs
from flux.modprobe import task

MODULES = (
    "content content-backing kvs kvs-watch heartbeat resource "
    "job-ingest job-info job-manager job-list job-exec sched-simple"
)


def setup(context: Any) -> None:  # noqa: ANN401 - Flux has no types
    """Choose the modules; modprobe finds their order, and the ranks that each belongs on."""
    context.setopt("resource", "noverify")
    context.setopt("sched-simple", "mode=limited=8")
    context.load_modules(MODULES.split())


@task("pytest-flux-resources", ranks="0", after=["kvs"], before=["resource"])  # type: ignore[untyped-decorator]
def make_up_resources(context: Any) -> None:  # noqa: ANN401
    """Leave an R where the resource module of an instance that is restarted would look for it."""
    from socket import gethostname

    size = int(context.attr_get("size"))
    lite = {"rank": f"0-{size - 1}", "children": {"core": f"0-{int(os.environ['PYTEST_FLUX_CORES']) - 1}"}}
    execution = {"R_lite": [lite], "starttime": 0, "expiration": 0, "nodelist": [gethostname()] * size}
    flux.kvs.put(context.handle, "resource.R", {"version": 1, "execution": execution})
    flux.kvs.commit(context.handle)


@task("pytest-flux-cleanup", ranks="0")  # type: ignore[untyped-decorator]
def end_jobs_first(context: Any) -> None:  # noqa: ANN401
    """Before rc3, jobs that still run are canceled, and no others start."""
    commands = ["flux queue stop --quiet --all --nocheckpoint", "flux cancel --user=all --quiet --states RUN"]
    context.rpc("runat.push", {"name": "cleanup", "commands": ["flux queue idle --quiet", *commands[::-1]]}).get()
