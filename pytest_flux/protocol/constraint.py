"""Constraints on the nodes that a job may have (RFC 31, "Representation").

``{"properties": ["ssd", "^gpu"]}``, ``{"hostlist": [...]}``, ``{"ranks": [...]}``, combined by ``and``, ``or``,
``not``. An object with several operators means all of them, and so does a list below ``not``, whose
result is then negated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.idset import decode_ranges
from pytest_flux.record import NamedTuple

MAX_DEPTH = 32
_UNFIT = frozenset("&'\"`|()")


class Node(NamedTuple):
    """The facts about a node that a constraint can ask for."""

    rank: int
    hostname: str
    properties: Collection[str]


Matcher = Callable[[Node], bool]


def validate_constraint(constraint: object, hosts: Collection[str] | None = None) -> None:
    """Raise ProtocolError, in flux-core's words, if ``constraint`` is malformed.

    ``hosts`` are the names of the instance's hosts: others are refused. None skips that check.
    """
    _compile(constraint, hosts, 0)


def compile_constraint(constraint: object) -> Matcher:
    """A function that returns whether a node fulfils ``constraint``. Raises as :func:`validate_constraint` does."""
    return _compile(constraint, None, 0)


def _compile(constraint: object, hosts: Collection[str] | None, depth: int) -> Matcher:
    if not isinstance(constraint, dict):
        raise ProtocolError("constraints must be a mapping")
    if depth > MAX_DEPTH:
        raise ProtocolError(f"constraints are nested more than {MAX_DEPTH} deep")
    parts = [_operation(operator, values, hosts, depth) for operator, values in constraint.items()]
    return parts[0] if len(parts) == 1 else _all(parts)


def _operation(operator: str, values: object, hosts: Collection[str] | None, depth: int) -> Matcher:
    if not isinstance(values, list):
        raise ProtocolError(f"argument to constraint {operator} must be a sequence")
    if operator in ("and", "or", "not"):
        parts = [_compile(value, hosts, depth + 1) for value in values]
        if operator == "or":
            return _any(parts)
        together = _all(parts)
        return together if operator == "and" else lambda node: not together(node)
    if operator not in ("properties", "hostlist", "ranks"):
        raise ProtocolError(f"unknown constraint operator '{operator[:80]}'")
    for value in values:
        if not isinstance(value, str):
            raise ProtocolError(f"argument to constraint {operator} must be a list of strings")
    return {"properties": _properties, "hostlist": _hostlist, "ranks": _ranks}[operator](values, hosts)


def _all(parts: list[Matcher]) -> Matcher:
    return lambda node: all(part(node) for part in parts)


def _any(parts: list[Matcher]) -> Matcher:
    # RFC 31: an empty "or" matches, too.
    return lambda node: not parts or any(part(node) for part in parts)


def _properties(names: list[str], _: Collection[str] | None) -> Matcher:
    for name in names:
        if _UNFIT & set(name):
            raise ProtocolError(f"invalid character in property '{name[:80]}'")
    wanted = [name for name in names if not name.startswith("^")]
    unwanted = [name[1:] for name in names if name.startswith("^")]

    def match(node: Node) -> bool:
        # The name of a host is one of its properties in flux-core.
        present = node.properties
        return all(name in present or name == node.hostname for name in wanted) and not any(
            name in present or name == node.hostname for name in unwanted
        )

    return match


def _hostlist(texts: list[str], hosts: Collection[str] | None) -> Matcher:
    wanted: set[str] = set()
    for text in texts:
        wanted.update(decode_hostlist(text))
    if hosts is not None and (unknown := [host for host in sorted(wanted) if host not in hosts]):
        raise ProtocolError(f"host constraint contains invalid hosts: host '{unknown[0][:200]}' not found")
    return lambda node: node.hostname in wanted


def _ranks(texts: list[str], _: Collection[str] | None) -> Matcher:
    ranges = [found for text in texts for found in decode_ranges(text)]
    return lambda node: any(first <= node.rank <= last for first, last in ranges)
