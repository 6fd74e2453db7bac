"""The states of a job, its results, and the events that lead from one to the next (RFC 21, "State Diagram")."""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEW, DEPEND, PRIORITY, SCHED, RUN, CLEANUP, INACTIVE = 1, 2, 4, 8, 16, 32, 64
PENDING = DEPEND | PRIORITY | SCHED
RUNNING = RUN | CLEANUP
ACTIVE = PENDING | RUNNING

STATES = {
    "NEW": NEW,
    "DEPEND": DEPEND,
    "PRIORITY": PRIORITY,
    "SCHED": SCHED,
    "RUN": RUN,
    "CLEANUP": CLEANUP,
    "INACTIVE": INACTIVE,
}
_STATE_NAMES = {value: name for name, value in STATES.items()}
_STATE_SHORT = {"N": NEW, "D": DEPEND, "P": PRIORITY, "S": SCHED, "R": RUN, "C": CLEANUP, "I": INACTIVE}
_STATE_GROUPS = {"PENDING": PENDING, "PD": PENDING, "RUNNING": RUNNING, "RU": RUNNING, "ACTIVE": ACTIVE, "A": ACTIVE}

COMPLETED, FAILED, CANCELED, TIMEOUT = 1, 2, 4, 8
RESULTS = {"COMPLETED": COMPLETED, "FAILED": FAILED, "CANCELED": CANCELED, "TIMEOUT": TIMEOUT}
_RESULT_NAMES = {value: name for name, value in RESULTS.items()}
_RESULT_SHORT = {"CD": COMPLETED, "F": FAILED, "CA": CANCELED, "TO": TIMEOUT}

FLAG_DEBUG, FLAG_WAITABLE, FLAG_NOVALIDATE = 2, 4, 8

URGENCY_MIN, URGENCY_HOLD, URGENCY_DEFAULT, URGENCY_EXPEDITE, URGENCY_MAX = 0, 0, 16, 31, 31
PRIORITY_MIN, PRIORITY_MAX = 0, 4294967295


def state_name(state: int) -> str:
    """The name of one state. Raises ProtocolError for an unknown number."""
    if state not in _STATE_NAMES:
        raise ProtocolError("not a job state", str(state))
    return _STATE_NAMES[state]


def parse_state(name: str) -> int:
    """The number of a state, or the mask of a group such as ``pending``, by long or short name, in any case."""
    upper = name.upper()
    for table in (STATES, _STATE_SHORT, _STATE_GROUPS):
        if upper in table:
            return table[upper]
    raise ProtocolError("not a job state", repr(name[:40]))


def result_name(result: int) -> str:
    """The name of a result. Raises ProtocolError for an unknown number."""
    if result not in _RESULT_NAMES:
        raise ProtocolError("not a job result", str(result))
    return _RESULT_NAMES[result]


def parse_result(name: str) -> int:
    """The number of a result, by long or short name, in any case."""
    upper = name.upper()
    for table in (RESULTS, _RESULT_SHORT):
        if upper in table:
            return table[upper]
    raise ProtocolError("not a job result", repr(name[:40]))


def next_state(state: int, event: str, context: dict[str, Any]) -> int:
    """The state after an event (RFC 21, "State Diagram", with flux-core's ways back to PRIORITY)."""
    if event == "exception":
        fatal = context.get("severity") == 0 and state not in (NEW, INACTIVE)
        return CLEANUP if fatal else state
    if event in ("jobspec-update", "urgency", "flux-restart"):
        return PRIORITY if state == SCHED else state
    if event == "validate":
        return DEPEND
    steps = {
        "depend": (DEPEND, PRIORITY),
        "priority": (PRIORITY, SCHED),
        "alloc": (SCHED, RUN),
        "finish": (RUN, CLEANUP),
        "clean": (CLEANUP, INACTIVE),
    }
    before, after = steps.get(event, (0, 0))
    return after if state == before else state


def job_result(succeeded: bool, exception: str | None) -> int:
    """The result of a job, by flux-core's rule. ``exception`` is the type of its gravest exception, if it had one."""
    if succeeded:
        return COMPLETED
    return {"cancel": CANCELED, "timeout": TIMEOUT}.get(exception or "", FAILED)
