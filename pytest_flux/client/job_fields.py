"""The fields of a job: which attributes of `job-list` they need, what stands for those that are not set, in words."""

from __future__ import annotations

import time

from pytest_flux.protocol.job_state import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_TIMES = ("t_depend", "t_priority", "t_sched", "t_run", "t_cleanup", "t_inactive", "duration", "expiration")
_TEXTS = ("name", "cwd", "queue", "project", "bank", "ntasks", "ncores", "nnodes", "priority", "ranks", "nodelist")
_OUTCOME = ("success", "result", "waitstatus")
DEFAULTS: dict[str, Any] = {**dict.fromkeys(_TIMES, 0.0), **dict.fromkeys((*_TEXTS, *_OUTCOME), "")}
"""The values of members that `job-list` leaves out."""

RESULT_SHORT = {"COMPLETED": "CD", "FAILED": "F", "CANCELED": "CA", "TIMEOUT": "TO"}
STATE_EMOJI = dict(zip(STATES, "\U0001f381\U0001f6d1\U0001f6a6\U0001f4c5\U0001f3c3\U0001f5d1\U0001f480", strict=True))
RESULT_EMOJI = {"COMPLETED": "\U0001f600", "FAILED": "\U0001f4a9", "CANCELED": "\U0001f4a5", "TIMEOUT": "\u231b"}

_STATUS = ("state", "result")
EXCEPTION = ("exception_occurred", "exception_severity", "exception_type", "exception_note")
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "id": (),
    "username": ("userid",),
    "state_single": ("state",),
    "state_emoji": ("state",),
    "returncode": ("waitstatus", "result"),
    "result_abbrev": ("result",),
    "result_emoji": ("result",),
    "runtime": ("t_run", "t_cleanup"),
    "status": _STATUS,
    "status_abbrev": _STATUS,
    "status_emoji": _STATUS,
    "expiration": ("expiration", *_STATUS),
    "t_remaining": ("expiration", *_STATUS),
    "contextual_info": ("state", "dependencies", "annotations", "nodelist", "priority", "urgency"),
    "contextual_time": ("state", "t_run", "t_cleanup", "duration"),
    "inactive_reason": (*_STATUS, "waitstatus", *EXCEPTION),
    "instance": ("annotations", *_STATUS),
}
for _name in ("sched", "user", "uri"):
    _ATTRIBUTES[_name] = ("annotations",)


def attributes_for(fields: Iterable[str]) -> set[str]:
    """What to ask `job-list` for, to know these fields."""
    attributes: set[str] = set()
    for field in fields:
        first, _, rest = field.partition(".")
        if first == "exception":
            attributes.add(f"exception_{rest}")
        else:
            attributes.update(_ATTRIBUTES.get(first, (first,)))
    return attributes


def describe_dependency(text: str) -> str:
    """A dependency; of a time, when it is."""
    name, _, timestamp = text.partition("=")
    if name != "begin-time":
        return text
    moment = time.localtime(float(timestamp))
    today = moment[:3] == time.localtime()[:3]
    seconds = f":{moment.tm_sec:02}" if moment.tm_sec else ""
    return f"begin@{time.strftime('%H:%M' if today else '%b%d-%H:%M', moment)}{seconds}"


def describe_exit(code: int | str) -> str:
    """Why a job ended, by its return code."""
    import signal

    if isinstance(code, int) and code > 128:
        try:
            return signal.strsignal(code - 128) or f"Signaled {code - 128}"
        except ValueError:
            return f"Signaled {code - 128}"
    words = {126: "Command invoked cannot execute", 127: "command not found", 128: "Invalid argument to exit"}
    return words.get(code, f"Exit {code}") if isinstance(code, int) else f"Exit {code}"
