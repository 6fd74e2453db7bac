"""Reading the texts of a task map: RFC 34, and PMI-1's form of it (RFC 13).

Error texts are in the words of flux-core 0.88, which show on the command line (``--test-pmi-clique``).
"""

from __future__ import annotations

import re

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_ranges, encode_ranges
from pytest_flux.protocol.taskmap_blocks import Block, append_block

# Not compiled here: re does it at first use, and most launchers never use it.
_PMI_BLOCK = r"(?a)\s*([+-]?[0-9]{1,20}),\s*([+-]?[0-9]{1,20}),\s*([+-]?[0-9]{1,20})\)"


def decode_blocks(text: str) -> list[Block]:
    """The blocks that ``text`` stands for, which may have numbers out of range if they come from JSON.

    Raises ProtocolError.
    """
    # The order of these tests is flux-core's: it decides whose error a garbled text gets.
    if not text or "vector," in text:
        return _decode_pmi(text)
    if not any(character in text for character in "({[]})"):
        return _decode_raw(text)
    return _decode_json(text)


def _decode_pmi(text: str) -> list[Block]:
    # flux-core looks only at what follows each opening parenthesis; from there to the next may be anything.
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
            append_block(blocks, block)
    return blocks


def _decode_raw(text: str) -> list[Block]:
    # An empty element between semicolons is no node, but a "," is one, without tasks: flux-core again.
    sets = [decode_ranges(element) for element in text.split(";") if element]
    blocks: list[Block] = []
    previous = -1
    for first, last, node in sorted((*ids, node) for node, ranges in enumerate(sets) for ids in ranges):
        if first <= previous:
            raise ProtocolError(f"duplicate {_taskids(first, min(previous, last), ' specified')}")
        if first > previous + 1:
            raise ProtocolError(f"missing {_taskids(previous + 1, first - 1)}")
        append_block(blocks, Block(node, 1, last - first + 1))
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
        # RFC 34 knows four numbers; flux-core overlooks what comes after them.
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
        # As near to the words of jansson, which flux-core shows, as Python's parser can tell.
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
