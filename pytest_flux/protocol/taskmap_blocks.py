"""The blocks of a task map (RFC 34), and how one grows by another."""

from __future__ import annotations

from pytest_flux.record import NamedTuple

# flux-core keeps the numbers of a block in C ints. It lets larger ones wrap around; here they are refused.
_MAX_NUMBER = 2**31 - 1


class Block(NamedTuple):
    """``ppn`` tasks on each of ``nnodes`` nodes from ``nodeid`` on, the whole ``repeat`` times over."""

    nodeid: int
    nnodes: int
    ppn: int
    repeat: int = 1

    @property
    def ntasks(self) -> int:
        """The number of tasks in the block, repeats included."""
        return self.nnodes * self.ppn * self.repeat

    @property
    def valid(self) -> bool:
        """Whether all numbers are in range: integers, C ints, and none but ``nodeid`` zero."""
        numbers_fit = all(type(number) is int and number <= _MAX_NUMBER for number in self)
        return numbers_fit and self.nodeid >= 0 and min(self[1:]) > 0


def append_block(blocks: list[Block], added: Block) -> None:
    """Add a block behind the others, compacted by flux-core's rules: only the last ones may change."""
    joined = _join(blocks[-1], added) if blocks else None
    if joined is None:
        blocks.append(added)
        return
    blocks[-1] = joined
    # Having grown, the last block may have become what the one before it is. Others did not change.
    if len(blocks) > 1 and blocks[-2][:3] == joined[:3]:
        repeat = blocks[-2].repeat + joined.repeat
        if repeat <= _MAX_NUMBER:
            blocks[-2:] = [Block(joined.nodeid, joined.nnodes, joined.ppn, repeat)]


def _join(last: Block, added: Block) -> Block | None:
    """One block for both, or None; by flux-core's rules, in its order."""
    if last.nodeid + last.nnodes == added.nodeid and last.ppn == added.ppn and last.repeat == 1:
        joined = Block(last.nodeid, last.nnodes + added.nnodes, last.ppn)
    # flux-core forgets to ask for repeat == 1 here: [[0,1,2,2]] and one more task on node 0 make it six
    # tasks.
    elif last.nodeid == added.nodeid and last.nnodes == added.nnodes == last.repeat == 1:
        joined = Block(last.nodeid, 1, last.ppn + added.ppn)
    elif last[:3] == added[:3]:
        joined = Block(last.nodeid, last.nnodes, last.ppn, last.repeat + 1)
    else:
        return None
    return joined if joined.valid else None
