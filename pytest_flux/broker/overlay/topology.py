"""The tree that the brokers of an instance form: the schemes of the attribute ``tbon.topo``, and its routes.

Rank 0 is the root. ``kary:K`` gives every rank up to K children (``kary:0``: all are children of rank 0);
``binomial`` is the binomial tree; ``mincrit[:K]`` has at most three levels, with K ranks in the middle one;
``custom`` takes the parents from the hosts of the ``[bootstrap]`` table.

Recorded shapes: flux-core 0.88, ``overlay.topology`` of instances of eight brokers.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Where flux-core parses K: strtoul() takes leading white space and a plus sign.
_COUNT = re.compile(r"[ \t\n\v\f\r]*\+?([0-9]+)", re.ASCII)

# mincrit without K: the number of children that a rank of the middle level should not exceed.
_MINCRIT_FANOUT = 1024


class Topology:
    """A tree of ``size`` ranks, by default as ``uri`` (the value of ``tbon.topo``) says.

    ``parents`` gives the parent of each rank for the scheme ``custom`` (see :func:`custom_parents`), which
    is flat without it; other schemes ignore it. Raises ValueError, in Flux's words, for a bad ``uri`` or size, and
    for parents that do not form a tree.

    Finding a route takes time logarithmic in the number of children; everything else is looked up. Ranks that do not
    exist raise ValueError, unless a method says otherwise.
    """

    __slots__ = (
        "_children",
        "_first",
        "_levels",
        "_order",
        "_parents",
        "_places",
        "_subtree",
        "maxlevel",
        "size",
    )

    def __init__(self, uri: str, size: int, parents: Sequence[int] | None = None) -> None:
        if size < 1:
            raise ValueError(f"invalid topology size {size}")
        self.size = size
        self._parents = _parents(uri, size, parents)
        self._children: dict[int, list[int]] = {}
        for rank in range(1, size):
            self._children.setdefault(self._parents[rank], []).append(rank)
        self._walk()
        self.maxlevel = max(self._levels)

    def _walk(self) -> None:
        """Number the ranks in preorder: a subtree then is one stretch of numbers, which its root begins."""
        self._order: list[int] = []
        self._places = [-1] * self.size
        self._levels = [0] * self.size
        self._subtree = [1] * self.size
        pending = [0]
        while pending:
            rank = pending.pop()
            self._places[rank] = len(self._order)
            self._order.append(rank)
            for child in reversed(self._children.get(rank, ())):
                self._levels[child] = self._levels[rank] + 1
                pending.append(child)
        if len(self._order) < self.size:
            lost = self._places.index(-1)
            raise ValueError(f"rank {lost} is not connected to rank 0: its ancestors form a cycle")
        for rank in reversed(self._order[1:]):
            self._subtree[self._parents[rank]] += self._subtree[rank]
        self._first = {rank: [self._places[child] for child in self._children[rank]] for rank in self._children}

    def parent(self, rank: int) -> int | None:
        """The rank above, or None for rank 0."""
        self._check(rank)
        return self._parents[rank] if rank else None

    def children(self, rank: int) -> list[int]:
        """The ranks directly below, ascending."""
        self._check(rank)
        return list(self._children.get(rank, ()))

    def descendants(self, rank: int) -> list[int]:
        """All ranks below, ascending."""
        self._check(rank)
        place = self._places[rank]
        return sorted(self._order[place + 1 : place + self._subtree[rank]])

    def descendant_count(self, rank: int) -> int:
        """The number of all ranks below."""
        self._check(rank)
        return self._subtree[rank] - 1

    def level(self, rank: int) -> int:
        """The number of hops to rank 0."""
        self._check(rank)
        return self._levels[rank]

    def internal_ranks(self) -> list[int]:
        """The ranks with children, and rank 0, ascending: what ``broker.critical-ranks`` is by default."""
        return sorted({0, *self._children})

    def next_hop(self, here: int, target: int) -> int | None:
        """The rank to which ``here`` forwards messages for ``target``: one of its children or its parent.

        None if ``target`` is ``here``, or not a rank of this tree.
        """
        self._check(here)
        if not 0 <= target < self.size or target == here:
            return None
        place = self._places[target]
        if self._places[here] < place < self._places[here] + self._subtree[here]:
            return self._children[here][bisect_right(self._first[here], place) - 1]
        return self._parents[here]

    def subtree_json(self, rank: int) -> dict[str, Any]:
        """The answer of ``overlay.topology``: ``{rank, size, children: [the same of each child...]}``."""
        self._check(rank)
        place = self._places[rank]
        trees: dict[int, dict[str, Any]] = {}
        # Not recursive: the tree of kary:1 is as deep as the number of its ranks.
        for member in self._order[place : place + self._subtree[rank]]:
            trees[member] = {"rank": member, "size": self._subtree[member], "children": []}
            if member != rank:
                trees[self._parents[member]]["children"].append(trees[member])
        return trees[rank]

    def _check(self, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise ValueError(f"no rank {rank} in a topology of size {self.size}")


def custom_parents(hosts: Sequence[Mapping[str, Any]]) -> list[int]:
    """The parents for the scheme ``custom``: hosts in the order of ranks, ``{host, parent?, ...}`` each.

    Raises ValueError, in Flux's words, for a parent that is not a host or closes a cycle, and for a parent of rank 0.
    """
    ranks: dict[str, int] = {}
    for rank, host in enumerate(hosts):
        ranks.setdefault(host["host"], rank)
    parents = [-1] + [0] * (len(hosts) - 1)
    for rank, host in enumerate(hosts):
        name = host.get("parent")
        if name is None:
            continue
        where = f"{host['host']} (rank {rank})"
        if rank == 0:
            what = f"rank 0 ({host['host']}) may not have a parent in a tree topology"
        elif name not in ranks:
            what = f'invalid parent "{name}" for {where}'
        elif _is_above(parents, rank, ranks[name]):
            what = f'parent "{name}" for {where} violates rule against cycles'
        else:
            parents[rank] = ranks[name]
            continue
        raise ValueError(f"Config file [bootstrap] hosts: {what}")
    return parents


def _is_above(parents: Sequence[int], rank: int, start: int) -> bool:
    """Whether the way up from ``start`` leads over ``rank``."""
    while start not in (rank, -1):
        start = parents[start]
    return start == rank


def _parents(uri: str, size: int, parents: Sequence[int] | None) -> list[int]:
    scheme, _, argument = uri.partition(":")
    if scheme == "kary":
        fanout = _count(argument, "kary")
        return [-1] + [(rank - 1) // fanout if fanout else 0 for rank in range(1, size)]
    if scheme == "mincrit":
        routers = _count(argument, "mincrit") if argument else _mincrit_routers(size)
        return [-1] + [(rank - 1) % routers + 1 if 0 < routers < rank else 0 for rank in range(1, size)]
    if scheme in ("binomial", "custom") and argument:
        raise ValueError(f"unknown {scheme} topology directive: '{argument}'")
    if scheme == "binomial":
        return [-1] + [rank & (rank - 1) for rank in range(1, size)]  # without its lowest set bit
    if scheme == "custom":
        return [-1] + [0] * (size - 1) if parents is None else _checked(parents, size)
    raise ValueError(f"unknown topology scheme '{scheme}'")


def _count(text: str, scheme: str) -> int:
    # flux-core takes K modulo 2**32, and negative numbers for 0; both are refused or taken literally here.
    match = _COUNT.fullmatch(text)
    if match is None or len(match[1]) > 20:
        raise ValueError(f"{scheme} k value must be an integer >= 0")
    return int(match[1])


def _mincrit_routers(size: int) -> int:
    """The smallest number of ranks in the middle level; 0 if rank 0 can do without them."""
    if size <= _MINCRIT_FANOUT + 1:
        return 0
    routers = 2
    while -(-(size - 1 - routers) // routers) > _MINCRIT_FANOUT:
        routers += 1
    return routers


def _checked(parents: Sequence[int], size: int) -> list[int]:
    if len(parents) != size:
        raise ValueError("topology size does not match host array size")
    for rank in range(1, size):
        if not 0 <= parents[rank] < size:
            raise ValueError(f"no rank {parents[rank]} in a topology of size {size}")
    return [-1, *parents[1:]]
