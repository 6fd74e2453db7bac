"""The story of a job for people: command, state, what it waits for, exceptions and output so far.

A job that hangs is seen first as a wait that ends with TimeoutError, or as a test that fails. What a reader needs is
then in five services. We ask all of them, each for a short time: a report must come out although a part of the
instance no longer answers. What cannot be learned is left out.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from pytest_flux.client.resources import ResourceList
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import f58
from pytest_flux.protocol.job_state import CLEANUP, DEPEND, INACTIVE, PRIORITY, SCHED, result_name, state_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flux.client.connection import Connection
    from pytest_flux.client.handle import Flux

_PATIENCE = 2.0
_MOST_OUTPUT = 4000
_LONGEST_COMMAND = 500
_HELD = 0
_FAILURES = (OSError, ProtocolError, LookupError, TypeError, ValueError)


def tell(flux: Flux, jobid: int, job: dict[str, Any] | None = None) -> str:
    """The story of a job, several lines. ``job`` has its attributes from `job-list`, if they are known."""
    if job is None:
        request = {"id": jobid, "attrs": ["all"]}
        job = _quietly(lambda: flux.rpc("job-list.list-id", request).get(_PATIENCE)["job"], {})
    return "\n".join(_lines(flux, jobid, job or {}))


def _lines(flux: Flux, jobid: int, job: dict[str, Any]) -> Iterator[str]:
    logs = _quietly(lambda: _lookup(flux, jobid, "eventlog", "jobspec"), {})
    yield f"{job.get('name', '?')}: {_state(flux, job)}"
    command = _quietly(lambda: _command(logs["jobspec"]), "")
    if command:
        yield f"command: {command}"
    for event in _quietly(lambda: _events(logs["eventlog"]), []):
        if event["name"] == "exception":
            context = event["context"]
            text = f"exception {context['type']}, severity {context['severity']}: {context.get('note', '')}"
            yield text.rstrip(" :")
    for stream, text in _quietly(lambda: _output(flux, jobid), {}).items():
        text = text.rstrip("\n")
        if text:
            yield f"{stream}:"
            yield text if len(text) <= _MOST_OUTPUT else f"[...]{text[-_MOST_OUTPUT:]}"


def _lookup(flux: Flux, jobid: int, *keys: str) -> dict[str, Any]:
    request = {"id": jobid, "keys": list(keys), "flags": 0}
    return flux.rpc("job-info.lookup", request).get(_PATIENCE)


def _events(text: str) -> list[Any]:
    from pytest_flux.protocol.eventlog import decode_eventlog

    return decode_eventlog(text)


def _command(jobspec: str) -> str:
    import json

    text = shlex.join(json.loads(jobspec)["tasks"][0]["command"])
    return text if len(text) <= _LONGEST_COMMAND else f"{text[:_LONGEST_COMMAND]}[...]"


def _output(flux: Flux, jobid: int) -> dict[str, str]:
    """What the job has written so far, by stream. While it runs, its namespace has the output."""
    from pytest_flux.client.kvs import Kvs
    from pytest_flux.protocol.ioencode import decode_io

    try:
        text = str(_lookup(flux, jobid, "guest.output")["guest.output"])
    except FluxError:
        text = _decoded(Kvs(flux, f"job-{jobid}").lookup("output").get(_PATIENCE))
    written: dict[str, str] = {}
    for event in _events(text):
        if event["name"] == "data":
            piece = decode_io(event["context"])
            written[piece.stream] = written.get(piece.stream, "") + piece.data.decode(errors="replace")
        elif event["name"] == "redirect":
            context = event["context"]
            written[context["stream"]] = f"(written to {context['path']})"
    return written


def _decoded(answer: Any) -> str:  # noqa: ANN401 - of the KVS
    from pytest_flux.client.kvs import value_of

    return value_of(answer).value().decode(errors="replace")


# -- the state, and what a job waits for


def _state(flux: Flux, job: dict[str, Any]) -> str:
    state = job.get("state", 0)
    if not state:
        return "unknown to job-list"
    if state == INACTIVE:
        how = result_name(job["result"]).lower()
        return f"{how}, exit code {_exit_code(job)}"
    why = _quietly(lambda: _reason(flux, job), "")
    name = state_name(state)
    return f"{name}, {why}" if why else name


def _exit_code(job: dict[str, Any]) -> int:
    from pytest_flux.protocol.wait_status import exit_code

    status = job.get("waitstatus")
    return exit_code(status) if status is not None else 1


def _reason(flux: Flux, job: dict[str, Any]) -> str:
    state = job["state"]
    if state == DEPEND:
        dependencies = [_dependency(text) for text in job.get("dependencies", ())]
        return f"waits for its dependency {', '.join(dependencies)}" if dependencies else "waits for a dependency"
    if job.get("urgency") == _HELD:
        return "is held: its urgency is 0"
    if state == PRIORITY:
        return "waits for its priority"
    if state == SCHED:
        return _stopped_queue(flux, job) or _no_resources(flux, job)
    where = f"on rank {job['ranks']}" if job.get("ranks") else ""
    return f"has ended and is cleaned up {where}".strip() if state == CLEANUP else f"runs {where}".strip()


def _dependency(text: str) -> str:
    """A dependency as job-list has it, ``after-success=123``, with the id as people write it."""
    scheme, _, value = text.partition("=")
    return f"{scheme} of job {f58(int(value))}" if value.isdecimal() else text


def _stopped_queue(flux: Connection, job: dict[str, Any]) -> str:
    name = job.get("queue")
    status = flux.rpc("job-manager.queue-status", {"name": name} if name else {}).get(_PATIENCE)
    if status.get("start", True):
        return ""
    reason = status.get("stop_reason") or status.get("reason")
    return f"waits: queue {name or 'default'} is stopped" + (f" ({reason})" if reason else "")


def _no_resources(flux: Connection, job: dict[str, Any]) -> str:
    resources = ResourceList.decode(flux.rpc("resource.sched-status").get(_PATIENCE))
    wanted = [f"{job[key]} {word}" for key, word in (("nnodes", "nodes"), ("ncores", "cores")) if key in job]
    free = f"{resources.free.count('core')} of {resources.all.count('core')} cores"
    if resources.all.count("gpu"):
        free += f" and {resources.free.count('gpu')} of {resources.all.count('gpu')} GPUs"
    text = f"waits for resources: it wants {' on '.join(reversed(wanted))}, free are {free}"
    down = resources.down.ranks if len(resources.down) else ""
    return text + (f"; down are ranks {down}" if down else "")


def _quietly(ask: Callable[[], Any], otherwise: Any) -> Any:  # noqa: ANN401
    try:
        return ask()
    except _FAILURES:
        return otherwise
