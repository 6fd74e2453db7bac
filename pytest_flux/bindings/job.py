"""Jobs: flux-core's ``libjob``."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from typing import Any

from pytest_flux.bindings.constants import (
    FLUX_JOB_EVENT_WATCH_INITIAL_SENTINEL,
    FLUX_JOB_EVENT_WATCH_WAITCREATE,
    FLUX_JOB_PRE_SIGNED,
    FLUX_NODEID_ANY,
)
from pytest_flux.bindings.ffi import NULL, chars, fail, put, set_error, text, unsigned
from pytest_flux.bindings.future import Future
from pytest_flux.bindings.handle import Handle
from pytest_flux.bindings.library import function
from pytest_flux.bindings.rpc import NORESPONSE, STREAMING, call_json, flux_rpc_get, response_json, response_member
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.eventlog import decode_event
from pytest_flux.protocol.fluid import dothex, encode_fluid, parse_fluid, wants_ascii
from pytest_flux.protocol.job_state import (
    ACTIVE,
    CANCELED,
    COMPLETED,
    FAILED,
    PENDING,
    RUN,
    RUNNING,
    STATES,
    TIMEOUT,
    job_result,
)
from pytest_flux.protocol.json_value import decode_json
from pytest_flux.protocol.signed_jobspec import sign_none, unwrap_none
from pytest_flux.protocol.wait_status import describe_failure, exit_code

# -- ids


@function("char *, flux_jobid_t * -> int")
def flux_job_id_parse(s: Any, id: Any) -> int:
    """The number of a job id: job.h."""
    name = text(s)
    if not name or id is NULL:
        return int(fail(errno.EINVAL))
    try:
        id[0] = parse_fluid(name.lstrip().removeprefix("job."))
    except ProtocolError:
        return int(fail(errno.EINVAL))
    return 0


def _write(buf: Any, size: int, value: str) -> int:
    """Write a string with its NUL into a buffer: 0, or -1 with errno set."""
    data = chars(value) + b"\0"
    if len(data) > size:
        return int(fail(errno.EOVERFLOW))
    buf[: len(data)] = data
    return 0


@function("flux_jobid_t, char *, char *, size_t -> int")
def flux_job_id_encode(id: int, type: Any, buf: Any, bufsz: int) -> int:
    """A job id in one of its forms: job.h."""
    if buf is NULL:
        return int(fail(errno.EINVAL))
    form = (text(type) or "dec").lower()
    if form == "f58" and wants_ascii(os.environ):
        form = "f58plain"
    try:
        return _write(buf, bufsz, encode_fluid(unsigned(id, 64), form))
    except ProtocolError:
        return int(fail(errno.EPROTO))


def _key(buf: Any, size: int, key: str) -> int:
    return -1 if _write(buf, size, key) < 0 else len(chars(key))


@function("char *, int, flux_jobid_t, char * -> int")
def flux_job_kvs_key(buf: Any, bufsz: int, id: int, key: Any) -> int:
    """The key of a job in the KVS: job.h."""
    name = text(key)
    return _key(buf, bufsz, f"job.{dothex(unsigned(id, 64))}" + ("" if name is None else f".{name}"))


@function("char *, int, flux_jobid_t, char * -> int")
def flux_job_kvs_guest_key(buf: Any, bufsz: int, id: int, key: Any) -> int:
    """The key of what a job has written in the KVS: job.h."""
    name = text(key)
    if "FLUX_KVS_NAMESPACE" in os.environ:
        return _key(buf, bufsz, "." if name is None else name)
    return _key(buf, bufsz, f"job.{dothex(unsigned(id, 64))}.guest" + ("" if name is None else f".{name}"))


@function("char *, int, flux_jobid_t -> int")
def flux_job_kvs_namespace(buf: Any, bufsz: int, id: int) -> int:
    """The namespace of a job: job.h."""
    return _key(buf, bufsz, f"job-{id}")


# -- states and results

_GROUPS = {"PENDING": PENDING, "RUNNING": RUNNING, "ACTIVE": ACTIVE}
_SHORT = {"PENDING": "PD", "RUNNING": "RU", "ACTIVE": "A"}
_STATES = {number: (name, _SHORT.get(name, name[0])) for name, number in {**STATES, **_GROUPS}.items()}
_RESULTS = {
    COMPLETED: ("COMPLETED", "CD"),
    FAILED: ("FAILED", "F"),
    CANCELED: ("CANCELED", "CA"),
    TIMEOUT: ("TIMEOUT", "TO"),
}


def _format(names: tuple[str, str] | None, fmt: Any) -> bytes:
    """One of the four forms of a name: ``L``, ``l``, ``S`` or ``s``."""
    form = (text(fmt) or "L")[:1]
    long, short = names or ("(unknown)", "?")
    if names is None:
        return chars(short if form in "sS" else long)
    return chars({"s": short.lower(), "S": short, "l": long.lower()}.get(form, long))


def _parse(table: dict[int, tuple[str, str]], s: Any, target: Any) -> int:
    name = text(s)
    for number, names in table.items():
        if name in (*names, *(one.lower() for one in names)):
            target[0] = number
            return 0
    return int(fail(errno.EINVAL))


@function("flux_job_state_t, char * -> char *")
def flux_job_statetostr(state: int, fmt: Any) -> bytes:
    """The name of a state: job.h."""
    return _format(_STATES.get(state), fmt)


@function("char *, flux_job_state_t * -> int")
def flux_job_strtostate(s: Any, state: Any) -> int:
    """The state of a name: job.h."""
    return _parse(_STATES, s, state)


@function("flux_job_result_t, char * -> char *")
def flux_job_resulttostr(result: int, fmt: Any) -> bytes:
    """The name of a result: job.h."""
    return _format(_RESULTS.get(result), fmt)


@function("char *, flux_job_result_t * -> int")
def flux_job_strtoresult(s: Any, result: Any) -> int:
    """The result of a name: job.h."""
    return _parse(_RESULTS, s, result)


# -- submitting


@function("flux_t *, char *, int, int -> flux_future_t *")
def flux_job_submit(h: Handle, jobspec: Any, urgency: int, flags: int) -> Any:
    """Submit a job: job.h."""
    spec = text(jobspec)
    if spec is None:
        return fail(errno.EINVAL, NULL)
    signed = spec if flags & FLUX_JOB_PRE_SIGNED else sign_none(chars(spec), os.getuid())
    payload = {"J": signed, "urgency": urgency, "flags": flags & ~FLUX_JOB_PRE_SIGNED}
    return call_json(h, "job-ingest.submit", payload)


@function("flux_future_t *, flux_jobid_t * -> int")
def flux_job_submit_get_id(f: Future, id: Any) -> int:
    """The id of a job that was submitted: job.h."""
    return _give(f, "id", id)


def _give(future: Any, member: str, target: Any) -> int:
    if future is NULL:
        return int(fail(errno.EINVAL))
    value = response_member(future, member)
    if value is None:
        return -1
    put(target, chars(value) if isinstance(value, str) else value)
    return 0


@function("char *, bool, uint32_t *, flux_error_t * -> char *")
def flux_unwrap_string(s: Any, verify: bool, userid: Any, error: Any) -> Any:
    """What was signed: job.h. Nothing here verifies a signature: there is only `none`."""
    try:
        payload, signer = unwrap_none(text(s) or "")
    except ProtocolError:
        set_error(error, f"sign-none-unwrap failed: {os.strerror(errno.EINVAL)}")
        return fail(errno.EINVAL, NULL)
    if verify and signer != os.getuid():
        set_error(error, f"sign-none-unwrap: signing userid {signer} != current {os.getuid()}")
        return NULL
    put(userid, signer)
    return payload


# -- acting on jobs


@function("flux_t *, flux_jobid_t, char *, int, char * -> flux_future_t *")
def flux_job_raise(h: Handle, id: int, type: Any, severity: int, note: Any) -> Any:
    """Raise an exception: job.h."""
    kind, reason = text(type), text(note)
    if kind is None:
        return fail(errno.EINVAL, NULL)
    payload = {"id": unsigned(id, 64), "type": kind, "severity": severity}
    if reason is not None:
        payload["note"] = reason
    return call_json(h, "job-manager.raise", payload)


@function("flux_t *, flux_jobid_t, char * -> flux_future_t *")
def flux_job_cancel(h: Handle, id: int, reason: Any) -> Any:
    """Cancel a job: job.h."""
    return flux_job_raise(h, id, b"cancel", 0, reason)


@function("flux_t *, flux_jobid_t, int -> flux_future_t *")
def flux_job_kill(h: Handle, id: int, signum: int) -> Any:
    """Send a signal: job.h."""
    if signum <= 0:
        return fail(errno.EINVAL, NULL)
    return call_json(h, "job-manager.kill", {"id": unsigned(id, 64), "signum": signum})


@function("flux_t *, flux_jobid_t, int -> flux_future_t *")
def flux_job_set_urgency(h: Handle, id: int, urgency: int) -> Any:
    """Set the urgency of a job: job.h."""
    return call_json(h, "job-manager.urgency", {"id": unsigned(id, 64), "urgency": urgency})


# -- waiting


@function("flux_t *, flux_jobid_t -> flux_future_t *")
def flux_job_wait(h: Handle, id: int) -> Any:
    """Wait for a job, or for any: job.h."""
    # Any job is the largest id; flux-core sends ids as signed numbers.
    return call_json(h, "job-manager.wait", {"id": id - (1 << 64) if unsigned(id, 64) >= 1 << 63 else id})


@function("flux_future_t *, bool *, char ** -> int")
def flux_job_wait_get_status(f: Future, success: Any, errstr: Any) -> int:
    """How a job ended: job.h."""
    return -1 if _give(f, "success", success) < 0 else _give(f, "errstr", errstr)


@function("flux_future_t *, flux_jobid_t * -> int")
def flux_job_wait_get_id(f: Future, id: Any) -> int:
    """Which job ended: job.h."""
    return _give(f, "id", id)


@function("int, flux_error_t * -> int")
def flux_job_waitstatus_to_exitcode(waitstatus: int, errp: Any) -> int:
    """The exit code for a wait status: job.h."""
    try:
        code = exit_code(waitstatus)
    except ProtocolError:
        set_error(errp, f"unexpected wait(2) status {waitstatus}")
        return int(fail(errno.EINVAL))
    set_error(errp, describe_failure(waitstatus))
    return code


# -- event logs


@function("flux_t *, flux_jobid_t, char *, int -> flux_future_t *")
def flux_job_event_watch(h: Handle, id: int, path: Any, flags: int) -> Any:
    """Follow an event log: job.h."""
    name = text(path)
    known = FLUX_JOB_EVENT_WATCH_WAITCREATE | FLUX_JOB_EVENT_WATCH_INITIAL_SENTINEL
    if name is None or flags & ~known:
        return fail(errno.EINVAL, NULL)
    payload = {"id": unsigned(id, 64), "path": name, "flags": flags}
    return call_json(h, "job-info.eventlog-watch", payload, FLUX_NODEID_ANY, STREAMING)


@function("flux_future_t *, char ** -> int")
def flux_job_event_watch_get(f: Future, event: Any) -> int:
    """The next event: job.h."""
    message = f.get()
    if message is None:
        return -1
    if message is not NULL and not message.payload:
        # The sentinel after what was in the log at first.
        return flux_rpc_get(f, event)
    try:
        put(event, chars(decode_json(message.payload.rstrip(b"\0"))["event"]))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return int(fail(errno.EPROTO))
    return 0


@function("flux_future_t * -> int")
def flux_job_event_watch_cancel(f: Future) -> int:
    """Follow an event log no longer: job.h."""
    handle = f.get_flux()
    if handle is None or f.rpc is None:
        return int(fail(errno.EINVAL))
    payload = {"matchtag": f.rpc.matchtag}
    future = call_json(handle, "job-info.eventlog-watch-cancel", payload, FLUX_NODEID_ANY, NORESPONSE)
    if future is NULL:
        return -1
    future.destroy()
    return 0


# -- results


class _Following:
    """Makes the result of a job from its events (flux-core's ``result.c``)."""

    def __init__(self, id: int, events: Future) -> None:
        self.result: dict[str, Any] = {"id": id, "exception_occurred": False}
        self._events = events

    def initialize(self, future: Future) -> None:
        self._events.adopt_context(future)
        self._events.then(lambda events: self._take(future, events))

    def _take(self, future: Future, events: Future) -> None:
        event: list[Any] = [NULL]
        if flux_job_event_watch_get(events, event) == 0:
            try:
                self._add(decode_event(event[0]))
            except (KeyError, TypeError, ValueError):
                future.fulfill((errno.EPROTO, None, NULL))
                return
            events.reset()
            return
        outcome = events.outcome()
        errnum = outcome[0] if outcome is not None and outcome[0] else errno.EPROTO
        if errnum != errno.ENODATA:
            future.fulfill((errnum, None, NULL))
            return
        result = self.result
        succeeded = result.get("t_run", -1.0) > 0 and result.get("waitstatus", -1) == 0
        result["result"] = job_result(succeeded, result.get("exception_type"))
        future.fulfill((0, None, chars(json.dumps(result, separators=(",", ":"), ensure_ascii=False))))

    def _add(self, event: dict[str, Any]) -> None:
        result, context = self.result, event.get("context", {})
        if event["name"] == "submit":
            result["t_submit"] = event["timestamp"]
        elif event["name"] == "alloc":
            result["t_run"] = event["timestamp"]
        elif event["name"] == "finish":
            result["t_cleanup"] = event["timestamp"]
            result["waitstatus"] = context["status"]
        elif event["name"] == "exception":
            # The gravest counts, of several equal ones the last.
            if 0 < result.get("exception_severity", -1) < context["severity"]:
                return
            result["exception_occurred"] = True
            for member in ("type", "note", "severity"):
                result[f"exception_{member}"] = context[member]


@function("flux_t *, flux_jobid_t, int -> flux_future_t *")
def flux_job_result(h: Handle, id: int, flags: int) -> Any:
    """Wait for the result of a job: job.h."""
    events = flux_job_event_watch(h, id, b"eventlog", 0)
    if events is NULL:
        return NULL
    future = Future(_Following(id, events).initialize)
    future.set_flux(h)
    # It ends with its future.
    future.embedded = events
    return future


@function("flux_future_t *, char ** -> int")
def flux_job_result_get(f: Future, json_str: Any) -> int:
    """The result of a job: job.h."""
    value = f.get()
    if value is None:
        return -1
    put(json_str, value)
    return 0


# -- lists


@function("flux_t *, flux_jobid_t, char * -> flux_future_t *")
def flux_job_list_id(h: Handle, id: int, attrs_json_str: Any) -> Any:
    """Ask for a job: job.h."""
    try:
        attributes = json.loads(text(attrs_json_str) or "")
    except ValueError:
        return fail(errno.EINVAL, NULL)
    return call_json(h, "job-list.list-id", {"id": id, "attrs": attributes})


@function("flux_t *, flux_error_t *, double * -> int")
def flux_job_timeleft(h: Handle, errp: Any, timeleft: Any) -> int:
    """How long the job or the instance around us may still run: flux_job_timeleft(3)."""
    job = os.environ.get("FLUX_JOB_ID")
    expiration = _instance_expiration(h, errp) if job is None else _job_expiration(h, job, errp)
    if expiration is None:
        return -1
    timeleft[0] = max(expiration - time.time(), 0.0) if expiration else math.inf
    return 0


def _instance_expiration(h: Handle, errp: Any) -> float | None:
    """When the instance ends, 0 for never; None, with errno and a text set, if that fails."""
    future = call_json(h, "resource.status", {}, 0)
    answer = None if future is NULL else response_json(future)
    if answer is None:
        set_error(errp, "failed to get instance expiration")
        return None
    return float(answer.get("R", {}).get("execution", {}).get("expiration", 0.0))


def _job_expiration(h: Handle, name: str, errp: Any) -> float | None:
    """When the job ends, 0 for never; None, with errno and a text set, if that fails."""
    try:
        jobid = parse_fluid(name)
    except ProtocolError:
        set_error(errp, f"failed to parse jobid {name}")
        return fail(errno.EINVAL, None)  # type: ignore[no-any-return]
    future = call_json(h, "job-list.list-id", {"id": jobid, "attrs": ["expiration", "state"]})
    job = None if future is NULL else response_member(future, "job")
    if job is None:
        outcome = None if future is NULL else future.outcome()
        errnum = outcome[0] if outcome is not None else errno.EIO
        words = (outcome[1] if outcome is not None else None) or os.strerror(errnum)
        set_error(errp, f"{name}: no such jobid" if errnum == errno.ENOENT else f"flux_job_list_id: {name}: {words}")
        return fail(errnum, None)  # type: ignore[no-any-return]
    if job["state"] & PENDING:
        set_error(errp, f"job {name} has not started")
        return None
    # A job that has ended has no time left, which an expiration in 1970 says.
    return float(job.get("expiration", 0.0)) if job["state"] == RUN else 1.0
