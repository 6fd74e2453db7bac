"""Which task runs on which node: the task map (RFC 34, "Implementation"), and PMI-1's form of it (RFC 13).

A map is a list of blocks. Tasks are numbered from 0 in the order of the blocks: a block gives each of its nodes
``ppn`` consecutive tasks, and does so ``repeat`` times. A map without blocks says that the mapping is unknown.

It has four forms as text, which :func:`decode_taskmap` distinguishes:

* PMI: ``(vector,(0,2,2))``, blocks of nodeid, nnodes, ppn; the empty string when unknown;
* JSON: ``[[0,2,2,1]]``, with repeat as the fourth number;
* wrapped JSON: ``{"version":1,"map":[[0,2,2,1]]}``;
* raw: ``0-1;2-3``, one set of task ids (RFC 22) per node.

A map may come from anybody, and ``[[0,2147483647,1,9]]`` is short. So blocks are expanded only where an answer needs
it, and the answers that grow with the number of tasks take a limit.

Errors are in the words of flux-core 0.88, which show on the command line (``--test-pmi-clique``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_ranges, encode_ranges
from pytest_flux.record import NamedTuple

# flux-core keeps the numbers of a block in C ints. It lets larger ones wrap around; here they are refused.
_MAX_NUMBER = 2**31 - 1

# Not compiled here: re does it at first use, and most launchers never use it.
_PMI_BLOCK = r"(?a)\s*([+-]?[0-9]{1,20}),\s*([+-]?[0-9]{1,20}),\s*([+-]?[0-9]{1,20})\)"


class Block(NamedTuple):
    """``ppn`` tasks on each of ``nnodes`` nodes from ``nodeid`` on, repeated ``repeat`` times."""

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
        """Whether all numbers are integers, fit into a C int, and only ``nodeid`` is zero."""
        numbers_fit = all(type(number) is int and number <= _MAX_NUMBER for number in self)
        return numbers_fit and self.nodeid >= 0 and min(self[1:]) > 0


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

    @classmethod
    def compact(cls, blocks: Iterable[Block]) -> Taskmap:
        """The blocks in this order, compacted by flux-core's rules."""
        compacted: list[Block] = []
        for block in blocks:
            _append(compacted, block)
        return cls(compacted)

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

        Raises ProtocolError if it has none, or more than ``limit``.
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
        _append(blocks, Block(nodeid, nnodes, ppn))
        return Taskmap(blocks)

    def encode_json(self) -> str:
        """The array of RFC 34, without spaces."""
        return str([list(block) for block in self._blocks]).replace(" ", "")

    def encode_wrapped(self) -> str:
        """The object of RFC 34, without spaces."""
        return '{"version":1,"map":' + self.encode_json() + "}"

    def encode_pmi(self, *, limit: int = 2**20) -> str:
        """The value of PMI_process_mapping; empty when unknown.

        The form has no repeat, so repeated blocks are written out. Raises ProtocolError if that makes more than
        ``limit`` blocks.
        """
        if self.unknown:
            return ""
        if sum(block.repeat for block in self._blocks) > limit:
            raise ProtocolError(f"task map of more than {limit} PMI blocks")
        blocks = (block[:3] for block in self._blocks for _ in range(block.repeat))
        return "(vector," + ",".join(map(str, blocks)).replace(" ", "") + ")"

    def encode_raw(self, *, limit: int = 2**20) -> str:
        """The sets of task ids, in the order of nodes; empty when unknown.

        Raises ProtocolError if a node below the highest has no tasks (flux-core refuses that too, because the text
        would mean another map), and if there would be more than ``limit`` ranges.
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


def _append(blocks: list[Block], added: Block) -> None:
    """Append a block, compacted by flux-core's rules: only the last two blocks may change."""
    joined = _join(blocks[-1], added) if blocks else None
    if joined is None:
        blocks.append(added)
        return
    blocks[-1] = joined
    # The last block has grown, so it may now equal the one before it. Others did not change.
    if len(blocks) > 1 and blocks[-2][:3] == joined[:3]:
        repeat = blocks[-2].repeat + joined.repeat
        if repeat <= _MAX_NUMBER:
            blocks[-2:] = [Block(joined.nodeid, joined.nnodes, joined.ppn, repeat)]


def _join(last: Block, added: Block) -> Block | None:
    """One block for both, or None, by flux-core's rules in their order."""
    if last.nodeid + last.nnodes == added.nodeid and last.ppn == added.ppn and last.repeat == 1:
        joined = Block(last.nodeid, last.nnodes + added.nnodes, last.ppn)
    # flux-core forgets to check repeat == 1 here: it makes six tasks of [[0,1,2,2]] and one more on node 0.
    elif last.nodeid == added.nodeid and last.nnodes == added.nnodes == last.repeat == 1:
        joined = Block(last.nodeid, 1, last.ppn + added.ppn)
    elif last[:3] == added[:3]:
        joined = Block(last.nodeid, last.nnodes, last.ppn, last.repeat + 1)
    else:
        return None
    return joined if joined.valid else None


def decode_taskmap(text: str) -> Taskmap:
    """The map that ``text`` stands for, in any of the four forms.

    Blocks in JSON are kept as they are; the other forms are compacted. Raises ProtocolError.
    """
    # The order of these tests is flux-core's: it decides which error a garbled text gets.
    if not text or "vector," in text:
        return Taskmap(_decode_pmi(text))
    if not any(character in text for character in "({[]})"):
        return Taskmap(_decode_raw(text))
    return Taskmap(_decode_json(text))


def _decode_pmi(text: str) -> list[Block]:
    # flux-core reads only the block after each opening parenthesis, and ignores the text from there to the next.
    blocks: list[Block] = []
    announced = False
    for piece in text.split("("):
        piece = piece.lstrip(" \t\n\v\f\r")
        if piece.startswith("vector,"):
            announced = True
        elif piece:
            if not announced:
                raise ProtocolError("vector prefix must precede blocklist")
            match = re.match(_PMI_BLOCK, piece)
            if match is None:
                raise ProtocolError(f"unable to parse block: ({piece[:80]}")
            block = Block(int(match[1]), int(match[2]), int(match[3]))
            if not block.valid:
                raise ProtocolError(f"invalid number in block: ({piece[:80]}")
            _append(blocks, block)
    return blocks


def _decode_raw(text: str) -> list[Block]:
    # As in flux-core, an empty element between semicolons is not a node, but a "," is one, without tasks.
    sets = [decode_ranges(element) for element in text.split(";") if element]
    blocks: list[Block] = []
    previous = -1
    for first, last, node in sorted((*ids, node) for node, ranges in enumerate(sets) for ids in ranges):
        if first <= previous:
            raise ProtocolError(f"duplicate {_taskids(first, min(previous, last), ' specified')}")
        if first > previous + 1:
            raise ProtocolError(f"missing {_taskids(previous + 1, first - 1)}")
        _append(blocks, Block(node, 1, last - first + 1))
        previous = last
    return blocks


def _taskids(first: int, last: int, participle: str = "") -> str:
    return f"taskid{'s' if first < last else ''}{participle}: {encode_ranges([(first, last)])}"


def _decode_json(text: str) -> list[Block]:
    value = _load_json(text)
    if isinstance(value, dict):
        version = _integer(_item(value, "version"))
        value = _item(value, "map")
        if version != 1:
            raise ProtocolError(f"expected version=1, got {version}")
        if not isinstance(value, list):
            raise ProtocolError("taskmap must be an array")
    elif not isinstance(value, list):
        raise ProtocolError("taskmap must be an object or array")
    blocks: list[Block] = []
    for index, entry in enumerate(value):
        if not isinstance(entry, list):
            raise ProtocolError(f"entry {index} in taskmap is not an array")
        if len(entry) < 4:
            raise ProtocolError(f"error in taskmap entry: Array index {len(entry)} out of range")
        # RFC 34 has four numbers; flux-core ignores further ones.
        blocks.append(Block(*(_integer(number, "error in taskmap entry: ") for number in entry[:4])))
    return blocks


def _item(values: dict[str, object], key: str) -> object:
    if key not in values:
        raise ProtocolError(f"Object item not found: {key}")
    return values[key]


def _integer(value: object, context: str = "") -> int:
    if type(value) is int:
        return value
    names = {str: "string", float: "real", list: "array", dict: "object", type(None): "null"}
    raise ProtocolError(f"{context}Expected integer, got {names.get(type(value), str(value).lower())}")


def _load_json(text: str) -> object:
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # flux-core shows the words of jansson; these are as near to them as Python's parser allows.
        token = re.match(r"[A-Za-z]+|.", text[error.pos : error.pos + 80])
        if token is None:
            raise ProtocolError("']' expected near end of file") from None
        problems = {"Extra data": "end of file expected", "Expecting ',' delimiter": "']' expected"}
        problem = "unexpected token" if token[0] in "]},:" else "invalid token"
        raise ProtocolError(f"{problems.get(error.msg, problem)} near '{token[0]}'") from None
    except RecursionError:
        raise ProtocolError("maximum parsing depth reached") from None
    except ValueError:  # more digits than int() takes from text
        raise ProtocolError("too big integer") from None
