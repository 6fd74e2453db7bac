"""JSON as Flux reads and writes it, with the jansson library.

Python's parser accepts NaN, integers and reals of any size, and halves of surrogate pairs. jansson refuses them, and
so does :func:`decode_json`: written again, they would not be JSON that others can read.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SAFE_DIGITS = 18


def _integer(text: str) -> int:
    if len(text) <= _SAFE_DIGITS:
        return int(text)
    if len(text) > 2 * _SAFE_DIGITS or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError("too big integer")
    return value


def _real(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise ValueError("real number overflow")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"invalid token near '{name}'")


_decode = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=_constant).decode


compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
"""The JSON text of a value, without blanks, as Flux puts it on the wire and into the KVS.

``json.dumps`` makes a new encoder for each call with such options; an instance writes thousands of events a second.
"""

compact_ascii = json.JSONEncoder(separators=(",", ":")).encode
"""The same in ASCII only, for places that refuse lone surrogates: arguments of programs, columns of SQLite."""


def decode_json(data: bytes | memoryview | str, *, strict: bool = False) -> Any:  # noqa: ANN401 - JSON
    """The value of JSON text. Raises ValueError, RecursionError.

    Unless ``strict``, bytes that are not UTF-8 may be surrogates, as in Python's environments.
    """
    if not isinstance(data, str):
        data = str(data, "utf-8", "strict" if strict else "surrogatepass")
    value = _decode(data)
    if strict and "\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()
    return value
