"""Constraints on listed jobs: the form of RFC 31 with operators of job-list (flux-core's job-list/match.c)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pytest_flux.protocol import job_state
from pytest_flux.protocol.duration import parse_timestamp
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_host_ranges, decode_hostlist, expand
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.job_state import INACTIVE, RUN
from pytest_flux.protocol.limits import MAX_CONSTRAINT_DEPTH, MAX_CONSTRAINT_TERMS, Budget, check_limit
from pytest_flux.protocol.message import USERID_UNKNOWN

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.job import Job

Matcher = Callable[["Job"], bool]

_MAX_HOSTS = 1024
_TIMES = ("t_submit", "t_depend", "t_priority", "t_sched", "t_run", "t_cleanup", "t_inactive")
_ALL_STATES = job_state.NEW | job_state.ACTIVE | INACTIVE
_ALL_RESULTS = job_state.COMPLETED | job_state.FAILED | job_state.CANCELED | job_state.TIMEOUT
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda time, bound: time >= bound,
    "<=": lambda time, bound: time <= bound,
    ">": lambda time, bound: time > bound,
    "<": lambda time, bound: time < bound,
}


def compile_match(constraint: object, everybody: int = USERID_UNKNOWN) -> Matcher:
    """Return a function that says whether a job fulfils ``constraint``; every job fulfils None.

    ``everybody`` is a user id that stands for all users. Raises ProtocolError, in flux-core's words.
    """
    return _compile(constraint, everybody, 0, Budget("operators in a constraint", MAX_CONSTRAINT_TERMS))


def _compile(constraint: object, everybody: int, depth: int, terms: Budget) -> Matcher:
    if constraint is None or constraint == {}:
        return lambda job: True
    if not isinstance(constraint, dict):
        raise ProtocolError("constraint must be JSON object")
    if len(constraint) > 1:
        raise ProtocolError("constraint must only contain 1 element")
    check_limit("levels of a constraint", depth, MAX_CONSTRAINT_DEPTH)
    terms.spend()
    ((operator, values),) = constraint.items()
    if not isinstance(values, list):
        raise ProtocolError(f"operator {operator} values not an array")
    if operator in ("and", "or", "not"):
        return _combine(operator, [_compile(value, everybody, depth + 1, terms) for value in values])
    if operator in _TIMES:
        return _time(operator, values)
    makers: dict[str, Callable[[list[object]], Matcher]] = {
        "userid": partial(_userid, everybody),
        "name": _name,
        "queue": _queue,
        "states": _states,
        "results": _results,
        "hostlist": _hostlist,
        "ranks": _ranks,
    }
    if operator not in makers:
        raise ProtocolError(f"unknown constraint operator: {operator[:80]}")
    return makers[operator](values)


def _combine(operator: str, parts: list[Matcher]) -> Matcher:
    if operator == "or":
        return lambda job: not parts or any(part(job) for part in parts)
    if operator == "and":
        return lambda job: all(part(job) for part in parts)
    return lambda job: not all(part(job) for part in parts)


def _userid(everybody: int, values: list[object]) -> Matcher:
    wanted = set()
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProtocolError("userid value must be an integer")
        wanted.add(value & USERID_UNKNOWN)
    is_anybody = not wanted.isdisjoint((USERID_UNKNOWN, everybody))
    return lambda job: is_anybody or job.userid in wanted


def _strings(operator: str, values: list[object]) -> set[str]:
    strings = set()
    for value in values:
        if not isinstance(value, str):
            raise ProtocolError(f"{operator} value must be a string")
        strings.add(value)
    return strings


def _name(values: list[object]) -> Matcher:
    wanted = _strings("name", values)
    return lambda job: job.facts.name in wanted


def _queue(values: list[object]) -> Matcher:
    wanted = _strings("queue", values)
    return lambda job: job.facts.queue in wanted


def _mask(operator: str, values: list[object], known: int, parse: Callable[[str], int]) -> int:
    mask = 0
    for value in values:
        if isinstance(value, str):
            try:
                mask |= parse(value)
            except ProtocolError:
                raise ProtocolError(f"invalid {operator} value '{value[:80]}' specified") from None
        elif isinstance(value, int) and not isinstance(value, bool):
            if value & ~known:
                raise ProtocolError(f"invalid {operator} value '{value:X}h' specified")
            mask |= value
        else:
            raise ProtocolError(f"{operator} value invalid type")
    return mask


def _states(values: list[object]) -> Matcher:
    mask = _mask("states", values, _ALL_STATES, job_state.parse_state)
    return lambda job: bool(job.state & mask)


def _results(values: list[object]) -> Matcher:
    mask = _mask("results", values, _ALL_RESULTS, job_state.parse_result)
    return lambda job: job.state == INACTIVE and bool(job.result & mask)


def _hostlist(values: list[object]) -> Matcher:
    ranges = []
    for value in values:
        if not isinstance(value, str):
            raise ProtocolError("host value must be a string")
        try:
            ranges += decode_host_ranges(value)
        except ProtocolError:
            raise ProtocolError("host value not in valid Hostlist format") from None
    if sum(found.size for found in ranges) > _MAX_HOSTS:
        raise ProtocolError("too many hosts specified")
    wanted = frozenset(expand(ranges))

    def match(job: Job) -> bool:
        nodelist = job.facts.nodelist
        return nodelist is not None and not wanted.isdisjoint(decode_hostlist(nodelist))

    return match


def _ranks(values: list[object]) -> Matcher:
    wanted: set[int] = set()
    for value in values:
        if not isinstance(value, str):
            raise ProtocolError("ranks value must be a string")
        try:
            wanted.update(decode_idset(value, limit=_MAX_HOSTS))
        except ProtocolError as error:
            raise ProtocolError(f"ranks value '{value[:80]}': {error}") from None
    if len(wanted) > _MAX_HOSTS:
        raise ProtocolError("too many ranks specified")

    def match(job: Job) -> bool:
        ranks = job.facts.ranks
        return ranks is not None and not wanted.isdisjoint(decode_idset(ranks))

    return match


def _time(name: str, values: list[object]) -> Matcher:
    if not values:
        raise ProtocolError("timestamp value not specified")
    text = values[0]
    if not isinstance(text, str):
        raise ProtocolError(f"{name} value must be a string")
    operator = text[:2] if text[:2] in _COMPARE else text[:1]
    if operator not in _COMPARE:
        raise ProtocolError("timestamp comparison operator not specified")
    try:
        bound = parse_timestamp(text[len(operator) :])
    except ProtocolError:
        raise ProtocolError("Invalid timestamp value specified") from None
    if bound < 0:
        raise ProtocolError("timestamp value must be >= 0.0")
    compare = _COMPARE[operator]

    def match(job: Job) -> bool:
        time: float = getattr(job, name)
        if name == "t_run" and not job.states_mask & RUN:
            return False
        return time > 0 and compare(time, bound)

    return match
