"""A job as `job-list` describes it, with fields for people: names, states in words, computed times."""

from __future__ import annotations

import json
import os
import time

from pytest_flux.protocol.duration import short_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.fluid import encode_fluid
from pytest_flux.protocol.job_state import (
    CANCELED,
    FAILED,
    INACTIVE,
    PENDING,
    RUN,
    RUNNING,
    STATES,
    result_name,
    state_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_TIMES = ("t_depend", "t_priority", "t_sched", "t_run", "t_cleanup", "t_inactive", "duration", "expiration")
_TEXTS = ("name", "cwd", "queue", "project", "bank", "ntasks", "ncores", "nnodes", "priority", "ranks", "nodelist")
_OUTCOME = ("success", "result", "waitstatus")
_DEFAULTS: dict[str, Any] = {**dict.fromkeys(_TIMES, 0.0), **dict.fromkeys((*_TEXTS, *_OUTCOME), "")}
"""The values of members that `job-list` leaves out."""

_RESULT_SHORT = {"COMPLETED": "CD", "FAILED": "F", "CANCELED": "CA", "TIMEOUT": "TO"}
_STATE_EMOJI = dict(
    zip(STATES, "\U0001f381\U0001f6d1\U0001f6a6\U0001f4c5\U0001f3c3\U0001f5d1\U0001f480", strict=True)
)
_RESULT_EMOJI = {"COMPLETED": "\U0001f600", "FAILED": "\U0001f4a9", "CANCELED": "\U0001f4a5", "TIMEOUT": "\u231b"}

_STATUS = ("state", "result")
_EXCEPTION = ("exception_occurred", "exception_severity", "exception_type", "exception_note")
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
    "inactive_reason": (*_STATUS, "waitstatus", *_EXCEPTION),
    "instance": ("annotations", *_STATUS),
}
for _name in ("sched", "user", "uri"):
    _ATTRIBUTES[_name] = ("annotations",)


def attributes_for(fields: Iterable[str]) -> set[str]:
    """The attributes to request from `job-list` for these fields."""
    attributes: set[str] = set()
    for field in fields:
        first, _, rest = field.partition(".")
        if first == "exception":
            attributes.add(f"exception_{rest}")
        else:
            attributes.update(_ATTRIBUTES.get(first, (first,)))
    return attributes


class JobRecord:
    """One job. ``values`` is the object from `job-list`, with defaults for missing members.

    ``now`` is the time of its instance; None for the system's.
    """

    __slots__ = ("_now", "instance", "values")

    def __init__(self, values: dict[str, Any], now: float | None = None) -> None:
        self.values = {**_DEFAULTS, **values}
        self._now = now
        self.instance: Any = None

    @property
    def now(self) -> float:
        """The time at which the record was made, or is read."""
        return time.time() if self._now is None else self._now

    @property
    def id(self) -> int:
        """The job id."""
        return int(self.values["id"])

    def field(self, name: str) -> Any:  # noqa: ANN401
        """The value of a field, by the names that `flux jobs -o` has for them. Raises AttributeError."""
        first, _, rest = name.partition(".")
        if first == "id":
            return encode_fluid(self.id, rest or "f58")
        if first == "exception":
            return self.values.get(f"exception_{rest}", "")
        if first in ("annotations", "sched", "user"):
            return _shown(self.annotation(name if first != "annotations" else rest))
        if first == "instance":
            return "" if self.instance is None else self.instance.field(rest)
        if name == "uri.local":
            from pytest_flux.client.uri import local_uri

            return local_uri(self.uri) if self.uri else ""
        computed = _COMPUTED.get(name)
        if computed is not None:
            return computed(self)
        if name not in self.values:
            raise AttributeError(f"invalid JobInfo attribute '{name}'")
        return self.values[name]

    def annotation(self, path: str) -> Any:  # noqa: ANN401
        """The annotation at a path; None if there is none."""
        value: Any = self.values.get("annotations", {})
        for part in path.split(".") if path else ():
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def uri(self) -> str | None:
        """The URI of the instance that the job is, if it is one."""
        uri = self.annotation("user.uri")
        if not isinstance(uri, str):
            return None
        if os.environ.get("FLUX_URI_RESOLVE_LOCAL"):
            from pytest_flux.client.uri import local_uri

            return local_uri(uri)
        return uri

    @property
    def state(self) -> str:
        """The state in words."""
        return state_name(self.values["state"])

    @property
    def result(self) -> str:
        """The result in words; empty before the end."""
        value = self.values["result"]
        return "" if value == "" else result_name(value)

    @property
    def status(self) -> str:
        """The state, or, of an inactive job, the result."""
        return self.state if self.values["state"] & (PENDING | RUNNING) else self.result

    @property
    def runtime(self) -> float:
        """Seconds since it started, up to its end."""
        started, ended = self.values["t_run"], self.values["t_cleanup"]
        if started <= 0:
            return 0.0
        return float(ended - started if ended > 0 else self.now - started)

    @property
    def remaining(self) -> float:
        """Seconds until its time limit, while it runs."""
        if self.values.get("state") != RUN:
            return 0.0
        return max(float(self.values["expiration"]) - self.now, 0.0)

    @property
    def return_code(self) -> int | str:
        """The highest exit code of its shells; a signal is negative. Empty while it is active."""
        waitstatus = self.values["waitstatus"]
        if isinstance(waitstatus, int):
            return os.waitstatus_to_exitcode(waitstatus)
        return {CANCELED: -128, FAILED: 1}.get(self.values["result"], "")

    @property
    def dependencies(self) -> str:
        """The dependencies that the job waits for."""
        return ",".join(_describe_dependency(text) for text in self.values.get("dependencies", ()))

    @property
    def information(self) -> str:
        """The reason why it waits, or the hosts that it runs on."""
        state = self.state
        if state == "PRIORITY":
            return "priority-wait"
        if state == "DEPEND":
            return f"depends:{self.dependencies}"
        if state != "SCHED":
            return str(self.values["nodelist"])
        estimate = self.annotation("sched.t_estimate")
        if isinstance(estimate, (int, float)):
            left = estimate - self.now
            return f"eta:{'now' if left < 0 else short_duration(left)}"
        if self.values.get("urgency") == 0:
            return "held"
        return "priority-hold" if self.values["priority"] == 0 else ""

    @property
    def reason(self) -> str:
        """The reason why it ended."""
        if self.values["state"] != INACTIVE:
            return ""
        note, kind = self.values.get("exception_note"), self.values.get("exception_type")
        occurred = self.values.get("exception_occurred")
        if self.result == "CANCELED":
            return f"Canceled: {note}" if occurred and kind == "cancel" and note else "Canceled"
        if self.result == "TIMEOUT":
            return "Timeout"
        if self.result == "FAILED" and occurred and kind != "exec" and self.values["exception_severity"] == 0:
            return f"Exception: type={kind}" + (f" note={note}" if note else "")
        return _describe_exit(self.return_code)

    def json(self) -> dict[str, Any]:
        """The object that `flux jobs --json` prints."""
        fields = (*_DEFAULTS, "id", "t_submit", "t_remaining", "state", "result", "username", "userid", "urgency")
        values: dict[str, Any] = {}
        for name in (*fields, "runtime", "status", "returncode", "dependencies"):
            try:
                values[name] = self.id if name == "id" else self.field(name)
            except (AttributeError, KeyError, ProtocolError):
                continue
        values["dependencies"] = [_describe_dependency(text) for text in self.values.get("dependencies", ())]
        values["jobid"] = encode_fluid(self.id, "f58")
        values["annotations"] = self._annotations_without_uri()
        occurred = self.values.get("exception_occurred", "")
        values["exception"] = {key.partition("_")[2]: self.values.get(key, "") for key in _EXCEPTION}
        if not occurred:
            values["exception"] = {"occurred": False}
        if self.uri is not None:
            values["uri"] = self.uri
        unset = ("runtime", "expiration")
        return {
            name: value
            for name, value in values.items()
            if value != "" and not ((name.startswith("t_") or name in unset) and value == 0)
        }

    def _annotations_without_uri(self) -> dict[str, Any]:
        annotations = dict(self.values.get("annotations", {}))
        if self.uri is not None:
            user = {key: value for key, value in annotations.pop("user").items() if key != "uri"}
            if user:
                annotations["user"] = user
        return annotations


def _shown(value: Any) -> Any:  # noqa: ANN401
    if value is None or value == {}:
        return ""
    return json.dumps(value) if isinstance(value, dict) else value


def _describe_dependency(text: str) -> str:
    """A dependency in words. A begin time becomes a date."""
    name, _, timestamp = text.partition("=")
    if name != "begin-time":
        return text
    moment = time.localtime(float(timestamp))
    today = moment[:3] == time.localtime()[:3]
    seconds = f":{moment.tm_sec:02}" if moment.tm_sec else ""
    return f"begin@{time.strftime('%H:%M' if today else '%b%d-%H:%M', moment)}{seconds}"


def _describe_exit(code: int | str) -> str:
    """The reason why a job ended, from its return code."""
    import signal

    if isinstance(code, int) and code > 128:
        try:
            return signal.strsignal(code - 128) or f"Signaled {code - 128}"
        except ValueError:
            return f"Signaled {code - 128}"
    words = {126: "Command invoked cannot execute", 127: "command not found", 128: "Invalid argument to exit"}
    return words.get(code, f"Exit {code}") if isinstance(code, int) else f"Exit {code}"


def _username(record: JobRecord) -> str:
    import pwd

    userid = record.values["userid"]
    try:
        return pwd.getpwuid(userid).pw_name
    except KeyError:
        return str(userid)


def _status_abbreviation(record: JobRecord) -> str:
    status = record.status
    return _RESULT_SHORT.get(status, status[:1])


_COMPUTED: dict[str, Callable[[JobRecord], Any]] = {
    "username": _username,
    "state": lambda record: record.state,
    "state_single": lambda record: record.state[0],
    "state_emoji": lambda record: _STATE_EMOJI[record.state],
    "result": lambda record: record.result,
    "result_abbrev": lambda record: _RESULT_SHORT.get(record.result, ""),
    "result_emoji": lambda record: _RESULT_EMOJI.get(record.result, "\u3000"),
    "status": lambda record: record.status,
    "status_abbrev": _status_abbreviation,
    "status_emoji": lambda record: _RESULT_EMOJI.get(record.status) or _STATE_EMOJI.get(record.status, ""),
    "runtime": lambda record: record.runtime,
    "returncode": lambda record: record.return_code,
    "t_remaining": lambda record: record.remaining,
    "dependencies": lambda record: record.dependencies,
    "contextual_info": lambda record: record.information,
    "contextual_time": lambda record: (
        record.values["duration"] if record.values["state"] & PENDING else record.runtime
    ),
    "inactive_reason": lambda record: record.reason,
    "uri": lambda record: record.uri,
}
