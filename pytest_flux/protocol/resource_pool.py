"""Choose resources for jobs: worst fit, the default of flux-core's sched-simple.

Ranks are in buckets, by how many cores and gpus are free. So the cost of a choice grows with the size of the job, not
with the size of the instance.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from pytest_flux.protocol.resource_set import Node, ResourceSet, lowest
from pytest_flux.record import NamedTuple

Wanted = Callable[[int], bool]
"""A function that returns whether a rank fulfils a job's constraints."""


class Infeasible(Exception):
    """A request that can never be satisfied. The text gives the reason, in flux-core's words."""


class Need(NamedTuple):
    """The resources that a job needs. ``nnodes`` is 0 if any nodes will do; ``nslots`` is the sum over all nodes."""

    nnodes: int
    nslots: int
    cores_per_slot: int
    gpus_per_slot: int = 0
    exclusive: bool = False

    def settled(self) -> Need:
        """This need in nodes, if it is exclusive but has only slots: then each slot is a node."""
        return self._replace(nnodes=self.nslots) if self.exclusive and not self.nnodes else self


class ResourcePool:
    """The resources of an instance: all, the free ones, and which ranks are up. At first, all ranks are up.

    ``free_cores`` is the number of free cores on ranks that are up. ``has_single_cores`` says that each node has one
    core, and nothing else.
    """

    def __init__(self, resources: ResourceSet) -> None:
        self.resources = resources
        self._free: dict[int, tuple[int, int]] = {
            rank: (node.cores, node.gpus) for rank, node in resources.nodes.items()
        }
        self._down: set[int] = set()
        self._buckets: dict[tuple[int, int], list[int]] = {}
        self.free_cores = 0
        self.has_single_cores = all(
            node.cores.bit_count() == 1 and not node.gpus for node in resources.nodes.values()
        )
        for rank in sorted(self._free):
            key = self._key(rank)
            self.free_cores += key[0]
            self._buckets.setdefault(key, []).append(rank)

    def copy(self) -> ResourcePool:
        """An independent pool in the same state, to try things out."""
        copied = ResourcePool.__new__(ResourcePool)
        copied.resources = self.resources
        copied._free, copied._down = dict(self._free), set(self._down)
        copied.free_cores, copied.has_single_cores = self.free_cores, self.has_single_cores
        copied._buckets = {key: list(ranks) for key, ranks in self._buckets.items()}
        return copied

    # -- state

    def mark_up(self, ranks: Iterable[int]) -> None:
        """Allow these ranks to be chosen. Unknown ranks are ignored."""
        for rank in ranks:
            if rank in self._down:
                self._down.remove(rank)
                self._enter(rank)

    def mark_down(self, ranks: Iterable[int]) -> None:
        """Stop these ranks from being chosen."""
        for rank in ranks:
            if rank in self._free and rank not in self._down:
                self._leave(rank)
                self._down.add(rank)

    def shrink(self, ranks: Iterable[int]) -> None:
        """Remove these ranks for good, so that no job waits for them."""
        gone = [rank for rank in ranks if rank in self._free]
        for rank in gone:
            if rank not in self._down:
                self._leave(rank)
            self._down.discard(rank)
            del self._free[rank]
        if gone:
            self.resources = self.resources.without(gone)

    def down(self) -> ResourceSet:
        """The resources of ranks that are down."""
        return self.resources.select(self._down)

    def allocated(self) -> ResourceSet:
        """The resources that are not free."""
        nodes = {}
        for rank, (cores, gpus) in self._free.items():
            node = self.resources.nodes[rank]
            if cores != node.cores or gpus != node.gpus:
                nodes[rank] = Node(node.hostname, node.cores & ~cores, node.gpus & ~gpus)
        return ResourceSet(nodes, self.resources.properties)

    def take(self, chosen: ResourceSet) -> None:
        """Mark the resources of a job as not free."""
        free, changed = self._free, {}
        for rank, node in chosen.nodes.items():
            if rank in free:
                cores, gpus = free[rank]
                changed[rank] = cores & ~node.cores, gpus & ~node.gpus
        self._set(changed)

    def give_back(self, chosen: ResourceSet) -> None:
        """Mark the resources of a job as free again."""
        free, changed = self._free, {}
        for rank, node in chosen.nodes.items():
            if rank in free:
                cores, gpus = free[rank]
                everything = self.resources.nodes[rank]
                changed[rank] = cores | node.cores & everything.cores, gpus | node.gpus & everything.gpus
        self._set(changed)

    def cores_of(self, resources: ResourceSet) -> int:
        """How many cores of a set are on ranks that are up."""
        if not self._down:
            return resources.count("core")
        return sum(node.cores.bit_count() for rank, node in resources.nodes.items() if rank not in self._down)

    def free_all(self) -> None:
        """Mark everything as free."""
        self._set({rank: (node.cores, node.gpus) for rank, node in self.resources.nodes.items()})

    def _set(self, changed: dict[int, tuple[int, int]]) -> None:
        """Change what is free on some ranks: bucket by bucket, because a wide job changes thousands of ranks."""
        leaving: dict[tuple[int, int], list[int]] = {}
        entering: dict[tuple[int, int], list[int]] = {}
        for rank, (cores, gpus) in changed.items():
            if rank not in self._down:
                before, after = self._key(rank), (cores.bit_count(), gpus.bit_count())
                if before != after:
                    leaving.setdefault(before, []).append(rank)
                    entering.setdefault(after, []).append(rank)
                    self.free_cores += after[0] - before[0]
        self._free.update(changed)
        for key, ranks in leaving.items():
            self._remove(key, ranks)
        for key, ranks in entering.items():
            bucket = self._buckets.setdefault(key, [])
            bucket += ranks
            # Two ascending lists, which the sort recognizes.
            bucket.sort()

    def _remove(self, key: tuple[int, int], ranks: list[int]) -> None:
        """Remove ranks, which ascend, from a bucket."""
        bucket = self._buckets[key]
        if len(bucket) == len(ranks):
            del self._buckets[key]
            return
        first = bisect_left(bucket, ranks[0])
        if bucket[first : first + len(ranks)] == ranks:
            del bucket[first : first + len(ranks)]
        else:
            gone = frozenset(ranks)
            bucket[:] = [rank for rank in bucket if rank not in gone]

    def _key(self, rank: int) -> tuple[int, int]:
        cores, gpus = self._free[rank]
        return cores.bit_count(), gpus.bit_count()

    def _enter(self, rank: int) -> None:
        key = self._key(rank)
        self.free_cores += key[0]
        insort(self._buckets.setdefault(key, []), rank)

    def _leave(self, rank: int) -> None:
        key = self._key(rank)
        self.free_cores -= key[0]
        self._remove(key, [rank])

    # -- choosing

    def find(self, need: Need, wanted: Wanted | None = None) -> ResourceSet | None:
        """Resources that fulfil a need, or None while they are not free. They are not taken yet: see :meth:`take`.

        Whether they can ever be free is another question: see :meth:`check`.
        """
        need = need.settled()
        if need.nslots * need.cores_per_slot > self.free_cores:
            return None
        chosen = self._find_nodes(need, wanted) if need.nnodes else self._find_slots(need, wanted)
        if chosen is None:
            return None
        return ResourceSet(
            chosen, self.resources.properties, nslots=need.nslots, scheduling=self.resources.scheduling
        )

    def _candidates(self, cores: int, gpus: int, wanted: Wanted | None) -> Iterator[tuple[int, int, int]]:
        """Ranks with at least this much free: rank, cores, gpus. The freest come first, then the lowest."""
        for key in sorted(self._buckets, reverse=True):
            if key[0] < cores:
                return
            if key[1] >= gpus:
                for rank in self._buckets[key]:
                    if wanted is None or wanted(rank):
                        yield rank, *self._free[rank]

    def _find_nodes(self, need: Need, wanted: Wanted | None) -> dict[int, Node] | None:
        slots = need.nslots // need.nnodes
        cores, gpus = slots * need.cores_per_slot, slots * need.gpus_per_slot
        nodes = self.resources.nodes
        chosen: dict[int, Node] = {}
        for rank, free_cores, free_gpus in self._candidates(cores, gpus, wanted):
            node = nodes[rank]
            if need.exclusive:
                if (free_cores, free_gpus) != (node.cores, node.gpus):
                    continue
                chosen[rank] = node
            else:
                chosen[rank] = Node(node.hostname, lowest(free_cores, cores), lowest(free_gpus, gpus))
            if len(chosen) == need.nnodes:
                return chosen
        return None

    def _find_slots(self, need: Need, wanted: Wanted | None) -> dict[int, Node] | None:
        chosen: dict[int, Node] = {}
        left = need.nslots
        for rank, free_cores, free_gpus in self._candidates(need.cores_per_slot, need.gpus_per_slot, wanted):
            count = min(left, _slots_in(free_cores, free_gpus, need))
            chosen[rank] = Node(
                self.resources.nodes[rank].hostname,
                lowest(free_cores, count * need.cores_per_slot),
                lowest(free_gpus, count * need.gpus_per_slot),
            )
            left -= count
            if not left:
                return chosen
        return None

    def check(self, need: Need, wanted: Wanted | None = None) -> None:
        """Raise Infeasible, in flux-core's words, for a need that can never be satisfied."""
        need = need.settled()
        nodes = [node for rank, node in self.resources.nodes.items() if wanted is None or wanted(rank)]
        slots = need.nslots // need.nnodes if need.nnodes else 1
        cores, gpus = slots * need.cores_per_slot, slots * need.gpus_per_slot
        fitting = [node for node in nodes if node.cores.bit_count() >= cores and node.gpus.bit_count() >= gpus]
        if need.exclusive and len(fitting) < need.nnodes:
            raise Infeasible(
                f"unsatisfiable request: need {need.nnodes} exclusive node(s), only {len(fitting)} eligible"
            )
        if need.nnodes:
            if len(fitting) < need.nnodes:
                with_gpus = f" and {gpus} GPUs" if gpus else ""
                raise Infeasible(
                    f"unsatisfiable request: need {need.nnodes} node(s) with {cores} cores{with_gpus} each, "
                    f"only {len(fitting)} eligible"
                )
            return
        by_cores = sum(node.cores.bit_count() // need.cores_per_slot for node in nodes)
        if by_cores < need.nslots:
            total = sum(node.cores.bit_count() for node in nodes)
            raise Infeasible(
                f"unsatisfiable request: need {need.nslots} slot(s) of {need.cores_per_slot} core(s), "
                f"only {by_cores} such slot(s) available (total cores: {total})"
            )
        both = sum(_slots_in(node.cores, node.gpus, need) for node in nodes)
        if both < need.nslots:
            total = sum(node.gpus.bit_count() for node in nodes)
            raise Infeasible(
                f"unsatisfiable request: need {need.nslots} slot(s) with {need.gpus_per_slot} GPU(s) each, "
                f"only {both} available (total GPUs: {total})"
            )


def _slots_in(cores: int, gpus: int, need: Need) -> int:
    count = cores.bit_count() // need.cores_per_slot
    return min(count, gpus.bit_count() // need.gpus_per_slot) if need.gpus_per_slot else count
