"""Constraints on the nodes that a job may have (RFC 31, "Representation").

``{"properties": ["ssd", "^gpu"]}``, ``{"hostlist": [...]}``, ``{"ranks": [...]}``, combined by ``and``, ``or``,
``not``. An object with several operators means all of them, and so does a list below ``not``, whose
result is then negated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import HostSet, decode_host_ranges
from pytest_flux.protocol.idset import decode_ranges, in_ranges, merge_ranges
from pytest_flux.protocol.limits import (
    MAX_CONSTRAINT_DEPTH,
    MAX_CONSTRAINT_TERMS,
    MAX_CONSTRAINT_VALUES,
    Budget,
    check_limit,
)
from pytest_flux.record import NamedTuple

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
    _Compiler(hosts).compile(constraint, 0)


def compile_constraint(constraint: object) -> Matcher:
    """A function that returns whether a node fulfils ``constraint``. Raises as :func:`validate_constraint` does."""
    return _Compiler(None).compile(constraint, 0)


class _Compiler:
    """Compiles one constraint, and counts its terms and values against the limits."""

    def __init__(self, hosts: Collection[str] | None) -> None:
        self._hosts = hosts
        self._terms = Budget("operators in a constraint", MAX_CONSTRAINT_TERMS)
        self._values = Budget("values in a constraint", MAX_CONSTRAINT_VALUES)

    def compile(self, constraint: object, depth: int) -> Matcher:
        if not isinstance(constraint, dict):
            raise ProtocolError("constraints must be a mapping")
        check_limit("levels of a constraint", depth, MAX_CONSTRAINT_DEPTH)
        parts = [self._operation(operator, values, depth) for operator, values in constraint.items()]
        return parts[0] if len(parts) == 1 else _all(parts)

    def _operation(self, operator: str, values: object, depth: int) -> Matcher:
        if not isinstance(values, list):
            raise ProtocolError(f"argument to constraint {operator[:80]} must be a sequence")
        self._terms.spend()
        if operator in ("and", "or", "not"):
            parts = [self.compile(value, depth + 1) for value in values]
            if operator == "or":
                return _any(parts)
            together = _all(parts)
            return together if operator == "and" else lambda node: not together(node)
        if operator not in ("properties", "hostlist", "ranks"):
            raise ProtocolError(f"unknown constraint operator '{operator[:80]}'")
        for value in values:
            if not isinstance(value, str):
                raise ProtocolError(f"argument to constraint {operator} must be a list of strings")
        self._values.spend(len(values))
        return {"properties": self._properties, "hostlist": self._hostlist, "ranks": self._ranks}[operator](values)

    def _properties(self, names: list[str]) -> Matcher:
        for name in names:
            if _UNFIT & set(name):
                raise ProtocolError(f"invalid character in property '{name[:80]}'")
        wanted = frozenset(name for name in names if not name.startswith("^"))
        unwanted = frozenset(name[1:] for name in names if name.startswith("^"))

        def match(node: Node) -> bool:
            # In flux-core, a host's name is one of its properties.
            present = node.properties
            if len(wanted) > len(present) + 1 or not all(name in present or name == node.hostname for name in wanted):
                return False
            return node.hostname not in unwanted and unwanted.isdisjoint(present)

        return match

    def _hostlist(self, texts: list[str]) -> Matcher:
        ranges = []
        for text in texts:
            ranges += decode_host_ranges(text)
            self._values.spend(len(ranges))
        wanted = HostSet(ranges)
        if self._hosts is not None and (unknown := wanted.first_unknown(self._hosts)) is not None:
            raise ProtocolError(f"host constraint contains invalid hosts: host '{unknown[:200]}' not found")
        return lambda node: node.hostname in wanted

    def _ranks(self, texts: list[str]) -> Matcher:
        ranges = merge_ranges(found for text in texts for found in decode_ranges(text))
        self._values.spend(len(ranges))
        return lambda node: in_ranges(node.rank, ranges)


def _all(parts: list[Matcher]) -> Matcher:
    return lambda node: all(part(node) for part in parts)


def _any(parts: list[Matcher]) -> Matcher:
    # RFC 31: an empty "or" matches, too.
    return lambda node: not parts or any(part(node) for part in parts)
