"""Sets of small integers: flux-core's ``libidset``."""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

from pytest_flux.bindings import library
from pytest_flux.bindings.ffi import NULL, chars, ctype, fail, set_error, text
from pytest_flux.bindings.library import F
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import MAX_ID, decode_idset, encode_idset

IDSET_INVALID_ID = 0xFFFFFFFE
IDSET_FLAG_AUTOGROW = 1
IDSET_FLAG_BRACKETS = 2
IDSET_FLAG_RANGE = 4
IDSET_FLAG_INITFULL = 8
IDSET_FLAG_COUNT_LAZY = 16
IDSET_FLAG_ALLOC_RR = 32

lib = library.idset
for _name, _value in list(globals().items()):
    if _name.startswith("IDSET_"):
        setattr(lib, _name, _value)

_LIMIT = 2**24
"""The most ids of one set; flux-core's limit is 2**31, but its sets need a bit for each."""


class Idset:
    """A ``struct idset``."""

    ctype = ctype("struct idset *")

    def __init__(self, ids: set[int]) -> None:
        self.ids = ids
        self._sorted: list[int] | None = None

    def sorted(self) -> list[int]:
        """The ids in their order; kept until the set changes."""
        if self._sorted is None:
            self._sorted = sorted(self.ids)
        return self._sorted

    def changed(self) -> int:
        """Forget the order. Returns 0, as the functions that change a set do."""
        self._sorted = None
        return 0


def function(signature: str) -> Callable[[F], F]:
    """Make a function one of this library."""
    return library.function(signature, lib)


def _is_id(*ids: int) -> bool:
    return all(0 <= one <= MAX_ID for one in ids)


@function("size_t, int -> struct idset *")
def idset_create(size: int, flags: int) -> Any:
    """Make a set: idset_create(3)."""
    if flags & ~(IDSET_FLAG_AUTOGROW | IDSET_FLAG_INITFULL | IDSET_FLAG_COUNT_LAZY | IDSET_FLAG_ALLOC_RR):
        return fail(errno.EINVAL, NULL)
    if size > _LIMIT:
        return fail(errno.ERANGE, NULL)
    return Idset(set(range(size)) if flags & IDSET_FLAG_INITFULL else set())


@function("struct idset * -> void")
def idset_destroy(idset: Any) -> None:
    """Drop a set: idset_create(3)."""


@function("struct idset * -> struct idset *")
def idset_copy(idset: Any) -> Any:
    """Copy a set: idset_create(3)."""
    return fail(errno.EINVAL, NULL) if idset is NULL else Idset(set(idset.ids))


@function("struct idset *, int -> char *")
def idset_encode(idset: Any, flags: int) -> Any:
    """The text for a set: idset_encode(3), RFC 22."""
    if idset is NULL or flags & ~(IDSET_FLAG_BRACKETS | IDSET_FLAG_RANGE):
        return fail(errno.EINVAL, NULL)
    ids = idset.sorted()
    body = encode_idset(ids) if flags & IDSET_FLAG_RANGE else ",".join(map(str, ids))
    return chars(f"[{body}]" if flags & IDSET_FLAG_BRACKETS and len(ids) > 1 else body)


@function("char * -> struct idset *")
def idset_decode(s: Any) -> Any:
    """The set for a text: idset_encode(3), RFC 22."""
    return _decode(text(s), NULL)


@function("char *, ssize_t, ssize_t, int, idset_error_t * -> struct idset *")
def idset_decode_ex(s: Any, length: int, size: int, flags: int, error: Any) -> Any:
    """The set for a text, or what is wrong with it: idset_encode(3)."""
    words = text(s if length < 0 or s is NULL else s[:length])
    return _decode(words, error)


def _decode(words: str | None, error: Any) -> Any:
    if words is None:
        set_error(error, "invalid argument")
        return fail(errno.EINVAL, NULL)
    try:
        return Idset(set(decode_idset(words, limit=_LIMIT)))
    except ProtocolError as failure:
        set_error(error, failure.what)
        return fail(errno.EINVAL, NULL)


@function("char *, ssize_t -> bool")
def idset_decode_empty(s: Any, length: int) -> bool:
    """Whether a text stands for the empty set: idset_encode(3)."""
    words = text(s if length < 0 or s is NULL else s[:length])
    found = _decode(words, NULL)
    return found is not NULL and not found.ids


@function("struct idset *, unsigned int -> int")
def idset_set(idset: Idset, id: int) -> int:
    """Add an id: idset_create(3)."""
    if not _is_id(id):
        return int(fail(errno.EINVAL))
    idset.ids.add(id)
    return idset.changed()


@function("struct idset *, unsigned int, unsigned int -> int")
def idset_range_set(idset: Idset, lo: int, hi: int) -> int:
    """Add a range of ids: idset_create(3)."""
    if not _is_id(lo, hi):
        return int(fail(errno.EINVAL))
    idset.ids.update(range(min(lo, hi), max(lo, hi) + 1))
    return idset.changed()


@function("struct idset *, unsigned int -> int")
def idset_clear(idset: Idset, id: int) -> int:
    """Remove an id: idset_create(3)."""
    if not _is_id(id):
        return int(fail(errno.EINVAL))
    idset.ids.discard(id)
    return idset.changed()


@function("struct idset *, unsigned int, unsigned int -> int")
def idset_range_clear(idset: Idset, lo: int, hi: int) -> int:
    """Remove a range of ids: idset_create(3)."""
    if not _is_id(lo, hi):
        return int(fail(errno.EINVAL))
    idset.ids.difference_update(range(min(lo, hi), max(lo, hi) + 1))
    return idset.changed()


@function("struct idset *, unsigned int -> bool")
def idset_test(idset: Any, id: int) -> bool:
    """Whether an id is in a set: idset_create(3)."""
    return idset is not NULL and id in idset.ids


@function("struct idset * -> unsigned int")
def idset_first(idset: Any) -> int:
    """The least id: idset_create(3)."""
    return idset.sorted()[0] if idset is not NULL and idset.ids else IDSET_INVALID_ID


@function("struct idset * -> unsigned int")
def idset_last(idset: Any) -> int:
    """The greatest id: idset_create(3)."""
    return idset.sorted()[-1] if idset is not NULL and idset.ids else IDSET_INVALID_ID


@function("struct idset *, unsigned int -> unsigned int")
def idset_next(idset: Any, id: int) -> int:
    """The id after another one: idset_create(3)."""
    if idset is NULL:
        return IDSET_INVALID_ID
    ids = idset.sorted()
    position = bisect_right(ids, id)
    return ids[position] if position < len(ids) else IDSET_INVALID_ID


@function("struct idset *, unsigned int -> unsigned int")
def idset_prev(idset: Any, id: int) -> int:
    """The id before another one: idset_create(3)."""
    if idset is NULL:
        return IDSET_INVALID_ID
    ids = idset.sorted()
    position = bisect_left(ids, id)
    return ids[position - 1] if position else IDSET_INVALID_ID


@function("struct idset * -> size_t")
def idset_count(idset: Any) -> int:
    """The number of ids: idset_create(3)."""
    return 0 if idset is NULL else len(idset.ids)


@function("struct idset * -> bool")
def idset_empty(idset: Any) -> bool:
    """Whether a set is empty: idset_create(3)."""
    return idset is NULL or not idset.ids


@function("struct idset *, struct idset * -> bool")
def idset_equal(a: Any, b: Any) -> bool:
    """Whether two sets have the same ids: idset_create(3)."""
    return a is not NULL and b is not NULL and a.ids == b.ids


@function("struct idset *, struct idset * -> struct idset *")
def idset_union(a: Idset, b: Idset) -> Idset:
    """The ids of both sets: idset_create(3)."""
    return Idset(a.ids | b.ids)


@function("struct idset *, struct idset * -> struct idset *")
def idset_difference(a: Idset, b: Idset) -> Idset:
    """The ids of the first set that are not in the second: idset_create(3)."""
    return Idset(a.ids - b.ids)


@function("struct idset *, struct idset * -> struct idset *")
def idset_intersect(a: Idset, b: Idset) -> Idset:
    """The ids that are in both sets: idset_create(3)."""
    return Idset(a.ids & b.ids)


@function("struct idset *, struct idset * -> bool")
def idset_has_intersection(a: Any, b: Any) -> bool:
    """Whether two sets have an id in common: idset_create(3)."""
    return a is not NULL and b is not NULL and not a.ids.isdisjoint(b.ids)


@function("struct idset *, struct idset * -> int")
def idset_add(a: Idset, b: Any) -> int:
    """Add the ids of another set: idset_create(3)."""
    if b is not NULL:
        a.ids |= b.ids
    return a.changed()


@function("struct idset *, struct idset * -> int")
def idset_subtract(a: Idset, b: Any) -> int:
    """Remove the ids of another set: idset_create(3)."""
    if b is not NULL:
        a.ids = a.ids - b.ids
    return a.changed()


@function("void * -> void")
def free(ptr: Any) -> None:
    """Give memory back: free(3). Python does."""
