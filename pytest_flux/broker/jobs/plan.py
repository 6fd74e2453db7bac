"""Reservations for conservative backfill: which resources are held when.

Each job in turn gets the earliest time from which on resources are free for as long as it may run, beside what
running jobs and the reservations before it hold. That is a question about intervals: something that is free now and
at the end may be held in between. The moments worth a look are now and the ends of what is held, because between
those nothing becomes free.

For each such moment the plan would have to take everything out of an idle pool that is held at any time within the
interval, which costs as much as the instance is large. Most moments are ruled out by a sum: the number of free cores,
between moments, is a step function that is cheap to keep. Only a moment at which there are enough cores is tried in
full, and then mostly succeeds.

A plan lasts for one pass of the scheduler. Jobs end early all the time, and the reservations of an old plan would
keep their successors waiting (that is called compression elsewhere).
"""

from __future__ import annotations

import math
from bisect import bisect_left

from pytest_flux.protocol.resource_pool import Need, ResourcePool, Wanted
from pytest_flux.protocol.resource_set import ResourceSet


class Plan:
    """``running`` are the ends of running jobs, infinity for no time limit, with what they hold in ``pool``."""

    def __init__(self, pool: ResourcePool, now: float, running: list[tuple[float, ResourceSet]]) -> None:
        self._now = now
        self._idle = pool.copy()
        self._idle.free_all()
        self._held: list[tuple[float, float, ResourceSet]] = []
        # Free cores from each moment on, up to the next.
        self._moments = [now]
        self._cores = [self._idle.free_cores]
        for end, resources in running:
            # A job that is past its limit is about to end, but has not.
            self._hold(now, max(end, math.nextafter(now, math.inf)), resources)

    def reserve(self, need: Need, wanted: Wanted | None, duration: float) -> tuple[float, ResourceSet] | None:
        """Reserve the earliest time at which a need is free for ``duration``: when, and what. None if never."""
        cores = need.nslots * need.cores_per_slot
        index = 0
        while index < len(self._moments):
            begin = self._moments[index]
            if not begin < math.inf:
                return None
            end = begin + duration
            last = bisect_left(self._moments, end)
            short = next((place for place in range(last - 1, index - 1, -1) if self._cores[place] < cores), None)
            if short is not None:
                index = short + 1
                continue
            found = self._free(begin, end).find(need, wanted)
            if found is not None:
                self._hold(begin, end, found)
                return begin, found
            index += 1
        return None

    def _free(self, begin: float, end: float) -> ResourcePool:
        pool = self._idle.copy()
        for held_from, held_to, resources in self._held:
            if held_from < end and begin < held_to:
                pool.take(resources)
        return pool

    def _hold(self, begin: float, end: float, resources: ResourceSet) -> None:
        self._held.append((begin, end, resources))
        cores = self._idle.cores_of(resources)
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
