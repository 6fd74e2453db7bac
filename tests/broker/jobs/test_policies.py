"""The policies of the scheduler, against what the literature defines, by hand and by brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.scheduler import Scheduler
from pytest_flux.protocol.resource_pool import ResourcePool
from pytest_flux.protocol.resource_set import Node, ResourceSet
from tests.broker.jobs.played import StoppedClock, jobspec


class Wanted(NamedTuple):
    """A job: when it is submitted, how many nodes it needs, its time limit, and how long it takes."""

    submit: int
    nodes: int
    limit: int
    runtime: int
    priority: int = 16


class Simulation:
    """Jobs on nodes, by the scheduler itself: when each has started, and on which nodes."""

    def __init__(
        self, policy: str, nodes: int, wanted: list[Wanted], depth: int | None = None, cores: int = 1
    ) -> None:
        self.clock = StoppedClock()
        self.clock.now = 0.0
        self.scheduler = Scheduler(self.clock, self._allocated, self._denied, lambda job, annotations: None)
        self.scheduler.configure(policy, depth)
        self.scheduler.pool = ResourcePool(
            ResourceSet({rank: Node(f"n{rank}", (1 << cores) - 1, 0) for rank in range(nodes)})
        )
        self.wanted = wanted
        self.cores = cores
        self.starts: dict[int, float] = {}
        self.ranks: dict[int, frozenset[int]] = {}
        self.promises: dict[int, list[float]] = {}
        self._jobs = [self._job(number) for number in range(len(wanted))]
        self._run()

    def _job(self, number: int) -> Job:
        wanted = self.wanted[number]
        job = Job(number, jobspec(nodes=wanted.nodes, cores=self.cores, duration=wanted.limit))
        job.priority = wanted.priority
        return job

    def _allocated(self, job: Job, resources: dict[str, Any], annotations: dict[str, Any]) -> None:
        del annotations
        self.starts[job.id] = self.clock.now
        self.ranks[job.id] = frozenset(ResourceSet.decode(resources))

    def _denied(self, job: Job, note: str) -> None:
        raise AssertionError((job.id, note))

    def _run(self) -> None:
        submissions = sorted(range(len(self.wanted)), key=lambda number: (self.wanted[number].submit, number))
        while len(self.starts) < len(self.wanted) or self._running():
            moments = [self.wanted[number].submit for number in submissions] + [end for end, _ in self._running()]
            self.clock.now = min(moment for moment in moments if moment >= self.clock.now)
            for end, number in self._running():
                if end <= self.clock.now:
                    self.scheduler.free(self._jobs[number])
                    self._jobs[number].state = 0
            while submissions and self.wanted[submissions[0]].submit <= self.clock.now:
                self.scheduler.add(self._jobs[submissions.pop(0)])
            self.scheduler.schedule()

    def _running(self) -> list[tuple[float, int]]:
        return sorted(
            (start + self.wanted[number].runtime, number)
            for number, start in self.starts.items()
            if self._jobs[number].state
        )


def starts(policy: str, nodes: int, *wanted: Wanted, depth: int | None = None) -> list[float]:
    """When each job starts."""
    found = Simulation(policy, nodes, list(wanted), depth).starts
    return [found[number] for number in range(len(wanted))]


# A wide job waits for a long one; behind it wait short, narrow and long ones.
EXAMPLE = (
    Wanted(0, 6, 10, 10),
    Wanted(0, 2, 20, 20),
    Wanted(1, 8, 10, 10),
    Wanted(2, 2, 8, 8),
    Wanted(3, 2, 100, 100),
    Wanted(4, 6, 5, 5),
)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Strictly one after another.
        ("fcfs", [0, 0, 20, 30, 30, 38]),
        # The short narrow job ends before the wide one can begin. The long one would delay it.
        ("easy", [0, 0, 20, 10, 30, 30]),
        ("conservative", [0, 0, 20, 10, 30, 30]),
    ],
)
def test_an_example(policy: str, expected: list[float]) -> None:
    """8 nodes. Job 2 needs all and waits for job 1, until 20. From 10 on, 6 nodes are idle until then."""
    assert starts(policy, 8, *EXAMPLE) == expected


def test_extra_nodes() -> None:
    """EASY starts a long job if the head does not need its nodes."""
    wanted = (Wanted(0, 3, 10, 10), Wanted(1, 3, 10, 10), Wanted(2, 1, 1000, 1000), Wanted(3, 1, 1000, 1000))
    assert starts("easy", 4, *wanted) == [0, 10, 2, 20]
    assert starts("conservative", 4, *wanted) == [0, 10, 2, 20]
    assert starts("fcfs", 4, *wanted) == [0, 10, 10, 20]


def test_easy_may_delay_what_conservative_does_not() -> None:
    """Job 3 does not delay job 1, the head. It delays job 2, which conservative backfill does not allow."""
    wanted = (Wanted(0, 3, 20, 20), Wanted(1, 2, 20, 20), Wanted(2, 2, 20, 20), Wanted(3, 1, 30, 30))
    assert starts("easy", 4, *wanted) == [0, 20, 33, 3]
    assert starts("conservative", 4, *wanted) == [0, 20, 20, 40]


def test_priorities_come_before_age() -> None:
    wanted = (Wanted(0, 2, 10, 10), Wanted(1, 2, 10, 10), Wanted(2, 2, 10, 10, priority=31))
    for policy in ("fcfs", "easy", "conservative"):
        assert starts(policy, 2, *wanted) == [0, 20, 10]


def test_the_depth_bounds_what_is_tried() -> None:
    wanted = (Wanted(0, 1, 10, 10), Wanted(1, 2, 10, 10), Wanted(1, 2, 10, 10), Wanted(1, 1, 5, 5))
    for policy in ("easy", "conservative"):
        assert starts(policy, 2, *wanted, depth=2) == [0, 10, 20, 1]
        assert (
            starts(policy, 2, *wanted, depth=1) == [0, 10, 20, 20 + 10] or starts(policy, 2, *wanted, depth=1)[3] > 1
        )


NODES = 4
JOBS = st.lists(
    st.builds(
        lambda submit, nodes, limit, early: Wanted(submit, nodes, limit, max(1, limit - early)),
        st.integers(0, 10),
        st.integers(1, NODES),
        st.integers(1, 8),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


def _check_sanity(simulation: Simulation) -> None:
    """No job starts before its time, and no node is held twice."""
    wanted, begun = simulation.wanted, simulation.starts
    for number, job in enumerate(wanted):
        assert begun[number] >= job.submit
        assert len(simulation.ranks[number]) == job.nodes
    for one, other in itertools.combinations(range(len(wanted)), 2):
        if begun[one] < begun[other] + wanted[other].runtime and begun[other] < begun[one] + wanted[one].runtime:
            assert not simulation.ranks[one] & simulation.ranks[other]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["fcfs", "easy", "conservative"]), JOBS, st.sampled_from([1, 2]))
def test_no_job_is_early_and_no_node_is_held_twice(policy: str, wanted: list[Wanted], cores: int) -> None:
    _check_sanity(Simulation(policy, NODES, wanted, cores=cores))


class Reference:
    """The same policies by counting, one second after another, without any of the scheduler's code."""

    def __init__(self, policy: str, wanted: list[Wanted]) -> None:
        self.wanted = wanted
        self.starts: dict[int, int] = {}
        queue: list[int] = []
        now = 0
        while len(self.starts) < len(wanted):
            queue += [number for number, job in enumerate(wanted) if job.submit == now]
            getattr(self, policy)(queue, now)
            now += 1

    def _used(self, moment: int, now: int, reserved: dict[int, int], *, by_limit: bool) -> int:
        """Nodes in use at a moment, as known now: jobs end at their limit unless they have ended before."""
        used = 0
        for number, start in {**self.starts, **reserved}.items():
            job = self.wanted[number]
            end = start + (job.runtime if start + job.runtime <= now or not by_limit else job.limit)
            used += job.nodes if start <= moment < end else 0
        return used

    def _fits(self, number: int, start: int, now: int, reserved: dict[int, int]) -> bool:
        job = self.wanted[number]
        return all(
            self._used(moment, now, reserved, by_limit=True) + job.nodes <= NODES
            for moment in range(start, start + job.limit)
        )

    def _earliest(self, number: int, now: int, reserved: dict[int, int]) -> int:
        return next(start for start in itertools.count(now) if self._fits(number, start, now, reserved))

    def fcfs(self, queue: list[int], now: int) -> None:
        while queue and self._fits(queue[0], now, now, {}):
            self.starts[queue.pop(0)] = now

    def easy(self, queue: list[int], now: int) -> None:
        self.fcfs(queue, now)
        if not queue:
            return
        head = queue[0]
        promise = self._earliest(head, now, {})
        for number in queue[1:]:
            if self._fits(number, now, now, {}) and self._fits(number, now, now, {head: promise}):
                self.starts[number] = now
        queue[:] = [number for number in queue if number not in self.starts]

    def conservative(self, queue: list[int], now: int) -> None:
        reserved: dict[int, int] = {}
        for number in list(queue):
            start = self._earliest(number, now, reserved)
            if start == now:
                self.starts[number] = now
                queue.remove(number)
            else:
                reserved[number] = start


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([("fcfs", 1), ("fcfs", 2), ("easy", 1), ("easy", 2), ("conservative", 1)]), JOBS)
def test_brute_force_agrees(choice: tuple[str, int], wanted: list[Wanted]) -> None:
    """Conservative backfill counts if nodes have one core; otherwise it chooses nodes ahead, which is less."""
    policy, cores = choice
    wanted = sorted(wanted)
    assert Simulation(policy, NODES, wanted, cores=cores).starts == Reference(policy, wanted).starts


@settings(max_examples=60, deadline=None)
@given(JOBS)
def test_easy_never_delays_the_heads_reservation(wanted: list[Wanted]) -> None:
    """Whenever a job is head, its start was promised; it starts then or before."""

    class Watching(Simulation):
        def _run(self) -> None:
            self.scheduler._annotate = lambda job, annotations: self.promises.setdefault(job.id, []).append(
                annotations["sched"].get("t_estimate", math.inf)
            )
            super()._run()

    simulation = Watching("easy", NODES, sorted(wanted))
    for number, promised in simulation.promises.items():
        assert simulation.starts[number] <= min(promised)
