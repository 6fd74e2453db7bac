"""Reservations for conservative backfill: which resources are held when.

Each job in turn gets the earliest time from which on resources are free for as long as it may run, beside what
running jobs and the reservations before it hold. That is a question about intervals: something that is free now and
at the end may be held in between. The moments worth a look are now and the ends of what is held, because between
those nothing becomes free.

For each such moment the plan would have to take everything out of an idle pool that is held at any time within the
interval, which costs as much as the instance is large. Most moments are ruled out by a sum: the number of free cores,
between moments, is a step function that is cheap to keep. Only a moment at which there are enough cores is tried in
full, and then mostly succeeds.

Most instances need not even that. If each request is for single cores of any nodes, as in traces of clusters, or if
all nodes have one core, then enough free cores are enough, whichever they are. Such requests are kept as numbers, and
resources are chosen for them only when another kind of request comes behind them. Resources that are chosen ahead may
make a later job wait that would fit by number: the nodes of a reservation are not exchanged for others.

A plan lasts for one pass of the scheduler. Jobs end early all the time, and the reservations of an old plan would
keep their successors waiting (that is called compression elsewhere).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import groupby

from pytest_flux.protocol.resource_pool import Need, ResourcePool, Wanted
from pytest_flux.protocol.resource_set import ResourceSet


class Plan:
    """``running`` are the ends of running jobs, infinity for no time limit, with what they hold in ``pool``."""

    def __init__(self, pool: ResourcePool, now: float, running: list[tuple[float, ResourceSet]]) -> None:
        self._pool = pool
        self._idle: ResourcePool | None = None
        # What is held, from when to when; and reservations that are numbers so far, in their order.
        self._held = [(now, max(end, math.nextafter(now, math.inf)), resources) for end, resources in running]
        self._counted: list[tuple[float, float, Need]] = []
        self._is_exact = False
        self._has_single_cores = pool.has_single_cores
        # Free cores from each moment on, up to the next.
        self._moments = [now]
        self._cores = [pool.free_cores]
        for end, group in groupby(sorted(self._held, key=lambda held: held[1]), key=lambda held: held[1]):
            self._moments.append(end)
            self._cores.append(self._cores[-1] + sum(pool.cores_of(resources) for _, _, resources in group))

    def reserve(self, need: Need, wanted: Wanted | None, duration: float) -> tuple[float, ResourceSet | None] | None:
        """Reserve the earliest time at which a need is free for ``duration``. Returns when, and what; None if never.

        If what is None, any resources will do. Whoever takes them now says which (``take``).
        """
        is_counted = not self._is_exact and wanted is None and self._is_counted(need)
        cores = need.nslots * need.cores_per_slot
        index = 0
        while index < len(self._moments):
            begin = self._moments[index]
            end = begin + duration
            if not begin < math.inf:
                return None
            last = bisect_left(self._moments, end)
            short = next((place for place in range(last - 1, index - 1, -1) if self._cores[place] < cores), None)
            if short is not None:
                index = short + 1
            elif is_counted:
                self._counted.append((begin, end, need))
                self._hold(begin, end, cores)
                return begin, None
            else:
                found = self._free(begin, end).find(need, wanted)
                if found is not None:
                    # From now on it matters which cores a job takes.
                    self._is_exact = True
                    self._held.append((begin, end, found))
                    self._hold(begin, end, self._pool.cores_of(found))
                    return begin, found
                index += 1
        return None

    def take(self, found: ResourceSet) -> None:
        """The last reservation, for which any resources will do, gets these."""
        begin, end, _ = self._counted.pop()
        self._held.append((begin, end, found))

    def _is_counted(self, need: Need) -> bool:
        if need.gpus_per_slot or need.cores_per_slot > 1:
            return False
        return self._has_single_cores if need.nnodes or need.exclusive else True

    def _free(self, begin: float, end: float) -> ResourcePool:
        """What is free from begin to end."""
        counted, self._counted = self._counted, []
        for counted_from, counted_to, need in counted:
            found = self._free(counted_from, counted_to).find(need)
            if found is not None:
                self._held.append((counted_from, counted_to, found))
        if self._idle is None:
            self._idle = self._pool.copy()
            self._idle.free_all()
        pool = self._idle.copy()
        for held_from, held_to, resources in self._held:
            if held_from < end and begin < held_to:
                pool.take(resources)
        return pool

    def _hold(self, begin: float, end: float, cores: int) -> None:
        first, last = self._split(begin), self._split(end)
        for place in range(first, last):
            self._cores[place] -= cores

    def _split(self, moment: float) -> int:
        """The place of a moment, which becomes one of the moments if it is none."""
        place = bisect_left(self._moments, moment)
        if place == len(self._moments) or self._moments[place] != moment:
            self._moments.insert(place, moment)
            self._cores.insert(place, self._cores[place - 1])
        return place
