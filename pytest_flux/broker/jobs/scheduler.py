"""The scheduler: who gets resources next.

The problem: jobs wait in the order of priority, then of submission. Strict order leaves nodes idle while a wide job
waits at the head; taking whatever fits lets small jobs starve the wide one for ever.

Three ways were open. flux-core's sched-simple is strictly first come, first served. Conservative backfill reserves a
time for every waiting job; its plan must be rebuilt at each change. EASY backfill reserves a time for the head only:
a job behind it may start early if it ends before the head can begin. We use EASY, which Fluxion
offers as ``queue-policy=easy``: it needs no plan that outlives one pass, and a test suite sees short waits.

How a pass goes: start jobs from the head while they fit; refuse those that can never run here. When the head does
not fit, estimate when it will, by giving back the resources of running jobs in the order of their ends to a copy of
the pool. Then try the next ``_BACKFILL_DEPTH`` jobs that have a time limit and end before that.

What must stay true:

* A backfilled job never delays the head. So a job without time limit is not backfilled, and nothing is, if the head
  waits for a job without time limit: then nobody knows the head's start.
* The cost of a pass is bounded: a request equal to one that did not fit (``Request.key``) is not tried again in it.
* The scheduler knows jobs, resources and the clock, no more. Its three callbacks tell the job manager what it has
  decided; each may add or remove jobs at once, so the order is read again after each.
* A pass is pure planning, without I/O. ``Alloc`` runs at most one for each round of the reactor.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.protocol.constraint import Matcher, Node, compile_constraint
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.jobspec import jobspec_counts, system_attributes
from pytest_flux.protocol.resource_pool import Infeasible, Need, ResourcePool, Wanted
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.reactor.clock import Clock

_BACKFILL_DEPTH = 128
"""How many jobs behind the head are tried in one pass; this bounds the cost of a pass."""

Allocated = Callable[["Job", dict[str, Any], dict[str, Any]], None]
Denied = Callable[["Job", str], None]


class Request(NamedTuple):
    """What a job asks for. Equal requests have equal keys; ``duration`` is 0 for no limit."""

    need: Need
    constraint: Matcher | None
    duration: float
    key: str

    def wanted(self, resources: ResourceSet) -> Wanted | None:
        """Return a function that says whether a rank fulfils the constraint; None if every rank does."""
        constraint = self.constraint
        if constraint is None:
            return None
        nodes = resources.nodes
        return lambda rank: constraint(Node(rank, nodes[rank].hostname, resources.properties_of(rank)))


def make_request(jobspec: dict[str, Any]) -> Request:
    """Read the request out of a jobspec. Raises ProtocolError, in flux-core's words, if it has none."""
    counts = jobspec_counts(jobspec)
    need = Need(*counts[:5])
    constraint = system_attributes(jobspec).get("constraints")
    matcher = compile_constraint(constraint) if constraint else None
    return Request(need, matcher, counts.duration, json.dumps([need, constraint], sort_keys=True))


class Scheduler:
    """Waiting jobs in the order of their turn, and the resources and ends of running jobs."""

    def __init__(
        self,
        clock: Clock,
        allocated: Allocated,
        denied: Denied,
        annotate: Callable[[Job, dict[str, Any]], None],
    ) -> None:
        self._clock = clock
        self.pool: ResourcePool | None = None
        self._allocated = allocated
        self._denied = denied
        self._annotate = annotate
        self._order: list[tuple[int, int]] = []
        self._jobs: dict[int, tuple[tuple[int, int], Job, Request]] = {}
        self._running: dict[int, tuple[ResourceSet, float]] = {}
        self._estimated: tuple[Job, float] | None = None

    def __len__(self) -> int:
        return len(self._order)

    @property
    def expiration(self) -> float:
        """When the instance loses its resources; 0 if it never does, or has none yet."""
        return self.pool.resources.expiration if self.pool is not None else 0.0

    def __iter__(self) -> Iterator[Job]:
        return (self._jobs[key[1]][1] for key in list(self._order))

    def add(self, job: Job) -> None:
        """Add a job that waits for resources."""
        try:
            request = make_request(job.jobspec)
        except ProtocolError as error:
            self._denied(job, f"cannot parse jobspec: {error}")
            return
        key = (-job.priority, job.id)
        self._jobs[job.id] = (key, job, request)
        insort(self._order, key)

    def remove(self, job: Job) -> None:
        """Remove a job that no longer waits."""
        entry = self._jobs.pop(job.id, None)
        if entry is not None:
            del self._order[bisect_left(self._order, entry[0])]
        if self._estimated is not None and self._estimated[0] is job:
            self._estimated = None

    def go_offline(self) -> None:
        """Forget the resources and who has them."""
        self.pool = None
        self._running.clear()
        self._estimated = None

    def restore(self, job: Job) -> None:
        """Take the resources that a job has held since before a restart. Raises ProtocolError if they are gone."""
        if self.pool is None or job.R is None:
            return
        resources = ResourceSet.decode(job.R)
        missing = sorted(rank for rank in resources if rank not in self.pool.resources)
        if missing:
            raise ProtocolError(f"allocation contains ranks not in resource pool: {missing}")
        self.pool.take(resources)
        self._running[job.id] = resources, float(job.R["execution"].get("expiration", 0.0))

    def free(self, job: Job) -> None:
        """Give back the resources of a job."""
        resources, _ = self._running.pop(job.id, (None, 0.0))
        if resources is not None and self.pool is not None:
            self.pool.give_back(resources)

    def update_expiration(self, job: Job, expiration: float) -> None:
        """Note that a running job now ends at another time."""
        if job.id in self._running:
            self._running[job.id] = self._running[job.id][0], expiration

    def check(self, jobspec: dict[str, Any]) -> None:
        """Raise Infeasible or ProtocolError for a jobspec that can never run here."""
        request = make_request(jobspec)
        if self.pool is not None:
            self.pool.check(request.need, request.wanted(self.pool.resources))

    def schedule(self) -> None:
        """Start the jobs that can start now."""
        if self.pool is None:
            return
        while self._order and self._try(self._order[0][1], self.pool):
            pass
        if len(self._order) > 1:
            self._backfill(self.pool)

    def _try(self, job_id: int, pool: ResourcePool, head: Job | None = None) -> bool:
        """Start one job, or refuse it; return False if it must wait."""
        _, job, request = self._jobs[job_id]
        try:
            found = pool.find(request.need, request.wanted(pool.resources))
        except Infeasible as error:
            self.remove(job)
            self._denied(job, str(error))
            return True
        if found is None:
            return False
        self.remove(job)
        pool.take(found)
        now = self._clock.time()
        expiration = now + request.duration if request.duration else pool.resources.expiration
        self._running[job.id] = found, expiration
        annotations = {"resource_summary": found.summary()}
        if head is not None:
            annotations["backfill"] = f58(head.id)
        resources = found.replace(starttime=now, expiration=expiration).encode()
        self._allocated(job, resources, {"sched": annotations})
        return True

    def _backfill(self, pool: ResourcePool) -> None:
        """Start jobs that end before the head of the queue can begin."""
        _, head, request = self._jobs[self._order[0][1]]
        shorter = [
            entry for key in self._order[1 : _BACKFILL_DEPTH + 1] if (entry := self._jobs[key[1]])[2].duration > 0
        ]
        if not shorter:
            return
        begin = self._estimate(pool, request)
        if begin is None:
            return
        if self._estimated is None or self._estimated != (head, begin):
            self._estimated = (head, begin)
            self._annotate(head, {"sched": {"t_estimate": begin}})
        now = self._clock.time()
        blocked: set[str] = set()
        for _, job, wanted in shorter:
            fits = now + wanted.duration <= begin and wanted.key not in blocked
            if fits and not self._try(job.id, pool, head):
                blocked.add(wanted.key)

    def _estimate(self, pool: ResourcePool, request: Request) -> float | None:
        """Return the latest time at which a request fits; None if it may wait for a job without time limit."""
        trial = pool.copy()
        wanted = request.wanted(pool.resources)
        ends = sorted((end, job_id) for job_id, (_, end) in self._running.items() if end)
        for end, job_id in ends:
            trial.give_back(self._running[job_id][0])
            if trial.find(request.need, wanted) is not None:
                return max(end, self._clock.time())
        return None
