"""Which task runs on which node: the task map of RFC 34, with PMI-1's form of it (RFC 13).

A map is a list of blocks. Tasks are numbered from 0 as the blocks are walked: for each block, as often as it
repeats, for each of its nodes, so many consecutive tasks. A map without blocks says that the mapping is
unknown.

Its four texts, of which :func:`decode_taskmap` tells by itself which it has:

* PMI: ``(vector,(0,2,2))``, blocks of nodeid, nnodes, ppn; the empty string when unknown;
* JSON: ``[[0,2,2,1]]``, with repeat as the fourth number;
* wrapped JSON: ``{"version":1,"map":[[0,2,2,1]]}``;
* raw: ``0-1;2-3``, one set of task ids (RFC 22) per node.

A map is text from anybody, and ``[[0,2147483647,1,9]]`` is short. So blocks are never expanded but to answer,
and the answers that grow with the number of tasks take a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import encode_ranges
from pytest_flux.protocol.taskmap_blocks import Block, append_block
from pytest_flux.protocol.taskmap_decoding import decode_blocks

__all__ = ["Block", "Taskmap", "decode_taskmap"]


class Taskmap:
    """An immutable task map; equal if its blocks are equal."""

    __slots__ = ("_blocks",)

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        """Keep the blocks as given, not compacted. Raises ProtocolError if one has a number out of range."""
        self._blocks = tuple(blocks)
        for block in self._blocks:
            if not block.valid:
                raise ProtocolError(f"invalid entry [{','.join(map(str, block))}]")

    @classmethod
    def single(cls, ntasks: int) -> Taskmap:
        """All tasks on one node."""
        return cls([Block(0, 1, ntasks)])

    @classmethod
    def per_node(cls, nnodes: int) -> Taskmap:
        """One task on each node."""
        return cls([Block(0, nnodes, 1)])

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, in the order of their tasks."""
        return self._blocks

    @property
    def unknown(self) -> bool:
        """Whether the map has no blocks."""
        return not self._blocks

    @property
    def nnodes(self) -> int:
        """One more than the highest node id; 0 when unknown."""
        return max((block.nodeid + block.nnodes for block in self._blocks), default=0)

    @property
    def ntasks(self) -> int:
        """The number of tasks; 0 when unknown."""
        return sum(block.ntasks for block in self._blocks)

    def node_of(self, task: int) -> int:
        """The id of the node that a task runs on. Raises ProtocolError for a task that is not in the map."""
        for first, block in self._numbered():
            if first <= task < first + block.ntasks:
                return block.nodeid + (task - first) % (block.nnodes * block.ppn) // block.ppn
        raise ProtocolError("no such task in the task map", str(task))

    def tasks_of(self, node: int, *, limit: int = 2**20) -> list[int]:
        """The ids of a node's tasks, ascending.

        Raises ProtocolError if there are none or more than ``limit``.
        """
        tasks: list[int] = []
        for first, block in self._numbered():
            if not 0 <= node - block.nodeid < block.nnodes:
                continue
            if len(tasks) + block.ppn * block.repeat > limit:
                raise ProtocolError(f"more than {limit} tasks on one node of the task map", str(node))
            low = first + (node - block.nodeid) * block.ppn
            for start in range(low, first + block.ntasks, block.nnodes * block.ppn):
                tasks.extend(range(start, start + block.ppn))
        if not tasks:
            raise ProtocolError("no such node in the task map", str(node))
        return tasks

    def append(self, nodeid: int, nnodes: int, ppn: int) -> Taskmap:
        """A map with ``ppn`` more tasks on each of ``nnodes`` nodes, compacted by flux-core's rules.

        Only the last block of this map may change. Raises ProtocolError for a number out of range.
        """
        blocks = list(self._blocks)
        append_block(blocks, Block(nodeid, nnodes, ppn))
        return Taskmap(blocks)

    def encode_json(self) -> str:
        """The array of RFC 34, without spaces."""
        return str([list(block) for block in self._blocks]).replace(" ", "")

    def encode_wrapped(self) -> str:
        """The object of RFC 34, without spaces."""
        return '{"version":1,"map":' + self.encode_json() + "}"

    def encode_pmi(self, *, limit: int = 2**20) -> str:
        """The value of PMI_process_mapping; empty when unknown.

        Repeated blocks are written out, as the form knows no repeat. Raises ProtocolError if that makes
        more than ``limit`` blocks.
        """
        if self.unknown:
            return ""
        if sum(block.repeat for block in self._blocks) > limit:
            raise ProtocolError(f"task map of more than {limit} PMI blocks")
        blocks = (block[:3] for block in self._blocks for _ in range(block.repeat))
        return "(vector," + ",".join(map(str, blocks)).replace(" ", "") + ")"

    def encode_raw(self, *, limit: int = 2**20) -> str:
        """The sets of task ids, in the order of nodes; empty when unknown.

        Raises ProtocolError if a node below the highest has no tasks (flux-core refuses too: read back, it
        would be another map), and if more than ``limit`` ranges were to be made.
        """
        if sum(block.nnodes * block.repeat for block in self._blocks) > limit:
            raise ProtocolError(f"task map of more than {limit} ranges")
        ranges: dict[int, list[tuple[int, int]]] = {}
        for first, block in self._numbered():
            for position in range(block.repeat * block.nnodes):
                low = first + position * block.ppn
                of_node = ranges.setdefault(block.nodeid + position % block.nnodes, [])
                if of_node and of_node[-1][1] + 1 == low:
                    low = of_node.pop()[0]
                of_node.append((low, first + (position + 1) * block.ppn - 1))
        if len(ranges) < self.nnodes:
            raise ProtocolError("task map with an empty node has no raw form", self.encode_json()[:80])
        return ";".join(encode_ranges(ranges[node]) for node in range(self.nnodes))

    def _numbered(self) -> Iterator[tuple[int, Block]]:
        """Each block with the id of its first task."""
        first = 0
        for block in self._blocks:
            yield first, block
            first += block.ntasks

    def __eq__(self, other: object) -> bool:
        return self._blocks == other._blocks if isinstance(other, Taskmap) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._blocks)

    def __repr__(self) -> str:
        return f"<Taskmap {self.encode_json()[:80]}>"


def decode_taskmap(text: str) -> Taskmap:
    """The map that ``text`` stands for, in whichever of the four forms it is.

    Blocks in JSON are kept as they are; the other forms come out compacted. Raises ProtocolError.
    """
    return Taskmap(decode_blocks(text))
