"""Lists of hosts: flux-core's ``libhostlist``, which has no manual page; its header says what each function does."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import cmp_to_key
from typing import Any

from pytest_flux.bindings import library
from pytest_flux.bindings.ffi import NULL, chars, ctype, fail, text
from pytest_flux.bindings.library import F
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist

_NUMBERED = re.compile(r"(.*?)([0-9]*)", re.DOTALL)


class Hostlist:
    """A ``struct hostlist``. ``cursor`` is the host that was last looked at."""

    ctype = ctype("struct hostlist *")

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self.cursor = 0


lib = library.hostlist


def function(signature: str) -> Callable[[F], F]:
    """Make a function one of this library."""
    return library.function(signature, lib)


def _compare(one: str, other: str) -> int:
    """flux-core's order: by prefix, then by number if both could stand in one range, then by width."""
    prefix, digits = _split(one)
    other_prefix, other_digits = _split(other)
    if prefix != other_prefix:
        return -1 if prefix < other_prefix else 1
    if not digits or not other_digits:
        return len(digits) - len(other_digits)
    number, other_number = int(digits), int(other_digits)
    width, other_width = len(digits), len(other_digits)
    padded = _zeros(number, width) != _zeros(number, other_width)
    other_padded = _zeros(other_number, other_width) != _zeros(other_number, width)
    return width - other_width if padded and other_padded else number - other_number


def _split(name: str) -> tuple[str, str]:
    match = _NUMBERED.fullmatch(name)
    assert match is not None
    return match[1], match[2]


def _zeros(number: int, width: int) -> int:
    return max(width - len(str(number)), 0)


def _decode(value: Any) -> list[str] | None:
    try:
        words = text(value)
        return None if words is None else decode_hostlist(words)
    except ProtocolError:
        return None


@function("-> struct hostlist *")
def hostlist_create() -> Hostlist:
    """Make an empty list: hostlist.h."""
    return Hostlist([])


@function("struct hostlist * -> void")
def hostlist_destroy(hl: Any) -> None:
    """Drop a list: hostlist.h."""


@function("char * -> struct hostlist *")
def hostlist_decode(s: Any) -> Any:
    """The list for a text: hostlist.h, RFC 29."""
    hosts = _decode(s)
    return fail(errno.EINVAL, NULL) if hosts is None else Hostlist(hosts)


@function("struct hostlist * -> char *")
def hostlist_encode(hl: Any) -> Any:
    """The text for a list: hostlist.h, RFC 29."""
    return fail(errno.EINVAL, NULL) if hl is NULL else chars(encode_hostlist(hl.hosts))


@function("struct hostlist * -> struct hostlist *")
def hostlist_copy(hl: Any) -> Any:
    """Copy a list: hostlist.h."""
    return fail(errno.EINVAL, NULL) if hl is NULL else Hostlist(list(hl.hosts))


@function("struct hostlist *, char * -> int")
def hostlist_append(hl: Hostlist, hosts: Any) -> int:
    """Add hosts, and return their number: hostlist.h."""
    added = _decode(hosts)
    if added is None:
        return 0 if hosts is NULL else int(fail(errno.EINVAL))
    hl.hosts.extend(added)
    return len(added)


@function("struct hostlist *, struct hostlist * -> int")
def hostlist_append_list(hl1: Hostlist, hl2: Hostlist) -> int:
    """Add the hosts of another list, and return their number: hostlist.h."""
    count = len(hl2.hosts)
    hl1.hosts.extend(list(hl2.hosts))
    return count


@function("struct hostlist *, int -> char *")
def hostlist_nth(hl: Hostlist, n: int) -> Any:
    """The host at a position: hostlist.h."""
    if n < 0:
        return fail(errno.EINVAL, NULL)
    if n >= len(hl.hosts):
        return fail(errno.ENOENT, NULL)
    hl.cursor = n
    return chars(hl.hosts[n])


@function("struct hostlist *, char * -> int")
def hostlist_find(hl: Hostlist, hostname: Any) -> int:
    """The first position of a host: hostlist.h."""
    name = text(hostname)
    if name not in hl.hosts:
        return int(fail(errno.ENOENT))
    hl.cursor = hl.hosts.index(name)
    return hl.cursor


@function("struct hostlist *, char * -> int")
def hostlist_delete(hl: Hostlist, hosts: Any) -> int:
    """Remove hosts, and return their number: hostlist.h."""
    names = _decode(hosts)
    if names is None:
        return int(fail(errno.EINVAL))
    count = 0
    for name in names:
        if name in hl.hosts:
            hl.hosts.remove(name)
            count += 1
    return count


@function("struct hostlist * -> int")
def hostlist_count(hl: Any) -> int:
    """The number of hosts: hostlist.h."""
    return 0 if hl is NULL else len(hl.hosts)


@function("struct hostlist * -> void")
def hostlist_sort(hl: Hostlist) -> None:
    """Sort a list: hostlist.h."""
    hl.hosts.sort(key=cmp_to_key(_compare))


@function("struct hostlist * -> void")
def hostlist_uniq(hl: Hostlist) -> None:
    """Sort a list, and remove what is in it twice: hostlist.h."""
    hl.hosts = sorted(dict.fromkeys(hl.hosts), key=cmp_to_key(_compare))


@function("struct hostlist * -> char *")
def hostlist_first(hl: Hostlist) -> Any:
    """The first host: hostlist.h."""
    return _at(hl, 0)


@function("struct hostlist * -> char *")
def hostlist_last(hl: Hostlist) -> Any:
    """The last host: hostlist.h."""
    return _at(hl, max(len(hl.hosts) - 1, 0))


@function("struct hostlist * -> char *")
def hostlist_next(hl: Hostlist) -> Any:
    """The host after the one that was last looked at: hostlist.h."""
    return _at(hl, hl.cursor + 1)


@function("struct hostlist * -> char *")
def hostlist_current(hl: Hostlist) -> Any:
    """The host that was last looked at: hostlist.h."""
    return _at(hl, hl.cursor)


def _at(hl: Hostlist, position: int) -> Any:
    hl.cursor = min(position, len(hl.hosts))
    return chars(hl.hosts[position]) if position < len(hl.hosts) else NULL


@function("struct hostlist * -> int")
def hostlist_remove_current(hl: Hostlist) -> int:
    """Remove the host that was last looked at: hostlist.h."""
    if hl.cursor >= len(hl.hosts):
        return 0
    del hl.hosts[hl.cursor]
    return 1


@function("void * -> void")
def free(ptr: Any) -> None:
    """Give memory back: free(3). Python does."""
