"""``pytest_flux.replay``: a cluster that does not exist runs the jobs of a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pytest_flux.client.replay import Path, Replay, ReplayOptions, read_trace, replay_on
from pytest_flux.instance.flux_instance import start
from pytest_flux.protocol.trace import TraceJob


def replay(
    trace: Path | Iterable[TraceJob],
    nodes: int,
    *,
    cores: int = 1,
    policy: str = "easy",
    depth: int | None = None,
    format: str | None = None,
    first: int = 0,
    count: int | None = None,
    spacing: float = 1.0,
    scaling: float = 1.0,
    whole_nodes: bool = False,
    banks: Mapping[str, str] | Callable[[str], str | None] | None = None,
    timeout: float = 3600.0,
) -> Replay:
    """Replay a trace on a fake cluster of ``nodes`` nodes with ``cores`` cores each, in an embedded instance.

    ``trace`` is a file in Standard Workload Format (``swf``), the output of ``sacct --parsable2`` (``sacct``) or of
    ``flux jobs -a --json`` (``flux``), compressed by gzip or not; or an iterable of TraceJob. ``policy`` is ``fcfs``,
    ``easy`` or ``conservative``, ``depth`` how many waiting jobs are tried at a time. The other keywords are those of
    ReplayOptions: the ``first`` jobs to leave out, how many to take (``count``), factors for the time between
    submissions (``spacing``) and the processors of a job (``scaling``), whether a processor is a node
    (``whole_nodes``), and the ``banks`` of users. Returns a Replay: a table of jobs, means, the utilisation over
    time. Raises OSError and ProtocolError for a trace that cannot be read.
    """
    jobs = read_trace(trace, format) if isinstance(trace, (str, os.PathLike)) else list(trace)
    scheduler: dict[str, Any] = {"queue-policy": policy}
    if depth is not None:
        scheduler["queue-depth"] = depth
    conf = {"fake-resources": {"nnodes": nodes, "cores-per-node": cores}, "sched-simple": scheduler}
    options = ReplayOptions(first, count, spacing, scaling, whole_nodes, banks)
    with start(broker="embedded", clock="auto", conf=conf, timeout=timeout) as instance:
        return replay_on(instance.client, jobs, options)
