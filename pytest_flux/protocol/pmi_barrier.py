"""The barriers of a PMI-1 server: the one of PMI 1.1 (RFC 13), and those of groups that PMI 1.2 adds.

Each ``enter`` returns the ranks to release, in ascending order: none until the last one missing has come.
"""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError

# A client of PMI 1.2 may wait in one barrier per thread; more than this is no program, but fills our memory.
GROUPS_MAX = 1024


class Barriers:
    """For a server with ``local_size`` clients, of a program of ``size`` ranks."""

    def __init__(self, size: int, local_size: int) -> None:
        self._size = size
        self._local_size = local_size
        self._present: set[int] = set()
        self._absent: set[int] = set()
        self._entered: dict[int, int] = {}
        self._entered_total = 0
        self._completed = 0
        self._to_repeat: dict[int, int] = {}
        self._groups: dict[str, _Group] = {}
        self._waiting_in: dict[int, int] = {}

    def join(self, rank: int) -> None:
        """``rank`` is a client from now on, and released from each barrier with the others.

        A rank that has left before is a process that was started again: it repeats the barriers that are
        over, which nobody else will enter once more, and is let through those at once.
        """
        self._present.add(rank)
        if rank in self._absent and self._completed:
            self._to_repeat[rank] = self._completed

    def leave(self, rank: int) -> None:
        """``rank`` is gone, and does not count in any barrier that waits."""
        self._present.discard(rank)
        self._absent.add(rank)
        self._entered_total -= self._entered.pop(rank, 0)
        self._to_repeat.pop(rank, None)
        if self._waiting_in.pop(rank, 0):
            for name, group in list(self._groups.items()):
                group.waiting.pop(rank, None)
                if not group.waiting:
                    del self._groups[name]

    def enter(self, rank: int) -> list[int]:
        """``rank`` enters the barrier of all."""
        if self._to_repeat.get(rank, 0):
            self._to_repeat[rank] -= 1
            return [rank]
        # A plain count of lines, as in flux-core: it does not matter whose they are, and who never came is
        # released with the others.
        self._entered[rank] = self._entered.get(rank, 0) + 1
        self._entered_total += 1
        if self._entered_total < self._local_size:
            return []
        self._entered.clear()
        self._entered_total = 0
        self._completed += 1
        return sorted(self._present)

    def enter_group(self, rank: int, name: str) -> list[int]:
        """``rank`` enters the barrier of the group ``name``, as it stands in the request.

        That is WORLD, NODE, or ranks separated by commas, and perhaps ``:TAG``, a number. Raises
        ProtocolError if it is not, or ``rank`` is not in the group, or in more than GROUPS_MAX barriers.
        """
        group = self._groups.get(name) or self._parse(name)
        if group.members is not None and rank not in group.members:
            raise ProtocolError("PMI barrier of a group by one who is not in it")
        if self._waiting_in.get(rank, 0) >= GROUPS_MAX:
            raise ProtocolError(f"PMI client in more than {GROUPS_MAX} barriers")
        self._groups[name] = group
        self._waiting_in[rank] = self._waiting_in.get(rank, 0) + 1
        released = group.enter(rank)
        for member in released:
            self._waiting_in[member] -= 1
        if not group.waiting:
            del self._groups[name]
        return released

    def _parse(self, name: str) -> _Group:
        ranks, colon, tag = name.partition(":")
        if colon and not _is_number(tag):
            raise ProtocolError("PMI barrier whose tag is not a number")
        # To Hydra a node is what one of its proxies serves; here, what this server does.
        if ranks in ("WORLD", "NODE"):
            return _Group(None, self._local_size)
        words = ranks.split(",")
        if not all(_is_number(word) and int(word) < self._size for word in words):
            raise ProtocolError("PMI barrier of a group that does not exist")
        members = frozenset(map(int, words))
        return _Group(members, len(members))


class _Group:
    """``members`` (None: anybody), and how often each waits; ``count`` must come before any goes on."""

    __slots__ = ("_count", "members", "waiting")

    def __init__(self, members: frozenset[int] | None, count: int) -> None:
        self.members = members
        self._count = count
        self.waiting: dict[int, int] = {}

    def enter(self, rank: int) -> list[int]:
        self.waiting[rank] = self.waiting.get(rank, 0) + 1
        if len(self.waiting) < self._count:
            return []
        released = sorted(self.waiting)
        # Who came twice, from two threads, waits in the next round already.
        self.waiting = {rank: times - 1 for rank, times in self.waiting.items() if times > 1}
        return released


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
