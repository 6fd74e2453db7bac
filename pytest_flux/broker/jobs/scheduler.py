"""The scheduler: who gets resources next.

The problem: jobs wait in the order of priority, then of submission. Strict order leaves nodes idle while a wide job
waits at the head; taking whatever fits lets small jobs starve the wide one for ever.

Three policies are known, and an instance can have each (``[sched-simple] queue-policy``, with Fluxion's names):

* ``fcfs``, first come, first served: strict order, as flux-core's sched-simple has it.
* ``easy``, EASY backfill, our default: the head has a reservation, the earliest time at which it fits. A job behind
  it may start now if it ends before that, or if the head fits at that time nevertheless (Mu'alem and Feitelson, IEEE
  TPDS 12(6), 2001, call the resources that are left then the extra nodes).
* ``conservative``: each waiting job has a reservation, and none may be delayed by a job behind it. See plan.py.

How a pass of EASY goes: start jobs from the head while they fit; refuse those that can never run here. When the head
does not fit, estimate when it will, by giving back the resources of running jobs in the order of their ends to a copy
of the pool, the *shadow*. Then try the next ``queue-depth`` jobs, each against the pool and, if it would run beyond
the head's start, against the shadow.

What must stay true:

* A backfilled job never delays the head. So nothing is backfilled if the head waits for a job without time limit:
  then nobody knows the head's start.
* The cost of a pass is bounded: by ``queue-depth``, and because a request equal to one that did not fit
  (``Request.key``) is not tried again in it. Whether a request can ever be satisfied, for which all nodes are looked
  at, is asked once for each kind of request.
* The scheduler knows jobs, resources and the clock, no more. Its three callbacks tell the job manager what it has
  decided; each may add or remove jobs at once, so the order is read again after each.
* A pass is pure planning, without I/O. ``Alloc`` runs at most one for each round of the reactor.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.broker.jobs.plan import Plan
from pytest_flux.protocol.config_tables import QUEUE_POLICIES
from pytest_flux.protocol.constraint import Matcher, Node, compile_constraint
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.jobspec import jobspec_counts, system_attributes
from pytest_flux.protocol.resource_pool import Infeasible, Need, ResourcePool, Wanted
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job
    from pytest_flux.reactor.clock import Clock

QUEUE_DEPTH = 128
"""How many jobs behind the head are tried in one pass, unless configured."""

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
        self._feasible: tuple[ResourceSet | None, dict[str, str]] = None, {}
        self.policy = QUEUE_POLICIES[0]
        self.depth = QUEUE_DEPTH

    def configure(self, policy: str | None, depth: int | None) -> None:
        """Schedule by another policy from now on; None is the default of either."""
        self.policy = policy or QUEUE_POLICIES[0]
        self.depth = depth or QUEUE_DEPTH

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
        if self.policy == "conservative":
            self._schedule_by_plan(self.pool)
            return
        while self._order and self._try(self._order[0][1], self.pool):
            pass
        if self.policy == "easy" and len(self._order) > 1:
            self._backfill(self.pool)

    def _try(self, job_id: int, pool: ResourcePool) -> bool:
        """Start one job, or refuse it; return False if it must wait."""
        _, job, request = self._jobs[job_id]
        if self._refuse(job, request, pool):
            return True
        found = pool.find(request.need, request.wanted(pool.resources))
        if found is None:
            return False
        self._start(job, request, pool, found)
        return True

    def _refuse(self, job: Job, request: Request, pool: ResourcePool) -> bool:
        """Refuse a job that can never run here. Returns whether that was so."""
        resources, reasons = self._feasible
        if resources is not pool.resources:
            resources, reasons = self._feasible = pool.resources, {}
        if request.key not in reasons:
            try:
                pool.check(request.need, request.wanted(pool.resources))
                reasons[request.key] = ""
            except Infeasible as error:
                reasons[request.key] = str(error)
        reason = reasons[request.key]
        if reason:
            self.remove(job)
            self._denied(job, reason)
        return bool(reason)

    def _start(
        self, job: Job, request: Request, pool: ResourcePool, found: ResourceSet, head: Job | None = None
    ) -> None:
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

    def _note_estimate(self, head: Job, begin: float) -> None:
        if self._estimated is None or self._estimated != (head, begin):
            self._estimated = (head, begin)
            self._annotate(head, {"sched": {"t_estimate": begin}})

    # -- EASY

    def _backfill(self, pool: ResourcePool) -> None:
        """Start jobs that do not delay the head of the queue."""
        _, head, request = self._jobs[self._order[0][1]]
        candidates = [self._jobs[key[1]] for key in self._order[1 : self.depth + 1]]
        estimate = self._estimate(pool, request)
        if estimate is None:
            return
        begin, shadow = estimate
        self._note_estimate(head, begin)
        now = self._clock.time()
        blocked: set[tuple[str, bool]] = set()
        for _, job, wanted in candidates:
            is_short = 0 < wanted.duration <= begin - now
            if (wanted.key, is_short) in blocked or (wanted.key, True) in blocked:
                continue
            if job.id not in self._jobs or self._refuse(job, wanted, pool):
                continue
            found = pool.find(wanted.need, wanted.wanted(pool.resources))
            if found is None:
                blocked.add((wanted.key, True))
            elif is_short or self._leaves_room(shadow, request, found):
                self._start(job, wanted, pool, found, head)
            else:
                blocked.add((wanted.key, False))

    def _leaves_room(self, shadow: ResourcePool, request: Request, found: ResourceSet) -> bool:
        """Whether the head still fits at its time if a job has ``found`` then; if so, the job has it."""
        shadow.take(found)
        if shadow.find(request.need, request.wanted(shadow.resources)) is not None:
            return True
        shadow.give_back(found)
        return False

    def _estimate(self, pool: ResourcePool, request: Request) -> tuple[float, ResourcePool] | None:
        """Return the latest time at which a request fits, and what is free then.

        None if it may wait for a job without time limit.
        """
        shadow = pool.copy()
        wanted = request.wanted(pool.resources)
        begin: float | None = None
        for end, job_id in sorted((end, job_id) for job_id, (_, end) in self._running.items() if end):
            if begin is not None and end > begin:
                break
            shadow.give_back(self._running[job_id][0])
            if begin is None and shadow.find(request.need, wanted) is not None:
                begin = max(end, self._clock.time())
        return None if begin is None else (begin, shadow)

    # -- conservative backfill

    def _schedule_by_plan(self, pool: ResourcePool) -> None:
        """Give each waiting job a reservation, and start those whose time is now."""
        now = self._clock.time()
        plan = Plan(pool, now, [(end or math.inf, resources) for resources, end in self._running.values()])
        head: Job | None = None
        for _, job_id in self._order[: self.depth + 1]:
            if job_id not in self._jobs:
                continue
            _, job, request = self._jobs[job_id]
            if self._refuse(job, request, pool):
                continue
            wanted = request.wanted(pool.resources)
            reserved = plan.reserve(request.need, wanted, request.duration or math.inf)
            if reserved is None:
                # It waits for a job without time limit. Whoever starts now might delay it.
                return
            begin, found = reserved
            if begin <= now:
                if found is None:
                    found = pool.find(request.need, wanted)
                    assert found is not None
                    plan.take(found)
                self._start(job, request, pool, found, head)
            elif head is None:
                head = job
                self._note_estimate(job, begin)
