"""Limits and defaults from ``[policy]`` and ``[queues]`` (RFC 33, "Policy Configuration"; flux-config-policy(5))."""

from __future__ import annotations

import copy
import errno
from typing import Any

from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.jobspec import jobspec_counts

_SIZES = ("nnodes", "ncores", "ngpus")


def _dig(table: object, *path: str) -> Any:  # noqa: ANN401 - configuration has any type
    for name in path:
        table = table.get(name) if isinstance(table, dict) else None
    return table


def _queue_table(config: dict[str, Any], queue: str | None) -> dict[str, Any]:
    return _dig(config, "queues", queue) or {} if queue is not None else {}


def apply_defaults(config: dict[str, Any], jobspec: dict[str, Any]) -> None:
    """Add the defaults of policy and queue to a jobspec (flux-core's frobnicator plugin ``defaults``).

    Raises FluxError EPERM for a missing or unknown queue: flux-core's frobnicator answers 1 for every refusal.
    """
    queues = config.get("queues") or {}
    defaults = _dig(config, "policy", "jobspec", "defaults", "system") or {}
    system = jobspec["attributes"]["system"]
    queue = system.get("queue") or defaults.get("queue")
    if queue is None and queues:
        raise FluxError(errno.EPERM, "no queue specified")
    if queue is not None and queues:
        _check_queue(queues, queue)
    own = _dig(_queue_table(config, queue), "policy", "jobspec", "defaults", "system") or {}
    for name, value in {**defaults, **own}.items():
        if name == "duration":
            if not system.get("duration"):
                system["duration"] = parse_duration(value) if isinstance(value, str) else value
        elif name not in system:
            system[name] = copy.deepcopy(value)


def apply_constraints(config: dict[str, Any], jobspec: dict[str, Any]) -> None:
    """Add the constraints of its queue to a jobspec (flux-core's frobnicator plugin ``constraints``).

    Raises FluxError EPERM for an unknown queue.
    """
    system = jobspec["attributes"]["system"]
    queue = system.get("queue")
    if not queue:
        return
    _check_queue(config.get("queues") or {}, queue)
    requires = _queue_table(config, queue).get("requires")
    if requires is not None:
        _constrain(system, list(requires))


def _check_queue(queues: dict[str, Any], queue: object) -> None:
    if not isinstance(queue, str) or queue not in queues:
        raise FluxError(errno.EPERM, f"Invalid queue '{queue}' specified")


def _constrain(system: dict[str, Any], properties: list[str]) -> None:
    present = system.get("constraints")
    if not present:
        system["constraints"] = {"properties": properties}
    elif isinstance(present.get("properties"), list):
        present["properties"] += [name for name in properties if name not in present["properties"]]
    else:
        system["constraints"] = {"and": [present, {"properties": properties}]}


def check_limits(config: dict[str, Any], jobspec: dict[str, Any]) -> None:
    """Raise FluxError EINVAL, in flux-core's words, if a job asks for more or less than policy allows."""
    if not _dig(config, "policy", "limits") and not config.get("queues"):
        return
    queue = _dig(jobspec, "attributes", "system", "queue")
    where = f" for queue {queue}" if queue else ""
    try:
        counts = jobspec_counts(jobspec)
    except ProtocolError as error:
        raise FluxError(errno.EINVAL, str(error)) from None
    asked = {
        "nnodes": counts.nnodes,
        "ncores": counts.nslots * counts.cores_per_slot,
        "ngpus": counts.nslots * counts.gpus_per_slot,
    }
    for bound, verb in (("max", "exceeds"), ("min", "is under")):
        for size in _SIZES:
            limit = _limit(config, queue, "job-size", bound, size)
            if not isinstance(limit, int) or limit < 0:
                continue
            if asked[size] > limit if bound == "max" else asked[size] < limit:
                text = f"requested {size} ({asked[size]}) {verb} policy limit of {limit}{where}"
                raise FluxError(errno.EINVAL, text)
    _check_duration(_limit(config, queue, "duration"), counts.duration, where)


def _limit(config: dict[str, Any], queue: str | None, *path: str) -> Any:  # noqa: ANN401
    own = _dig(_queue_table(config, queue), "policy", "limits", *path)
    return own if own is not None else _dig(config, "policy", "limits", *path)


def _check_duration(text: object, duration: float, where: str) -> None:
    if not isinstance(text, str):
        return
    limit = parse_duration(text)
    if limit and (duration > limit or not duration):
        requested = _short(duration) if duration else "unlimited"
        raise FluxError(
            errno.EINVAL, f"requested duration ({requested}) exceeds policy limit of {_short(limit)}{where}"
        )


def check_lifetime(expiration: float, now: float, jobspec: dict[str, Any]) -> None:
    """Raise FluxError EINVAL if a job can outlive the instance, which ends at ``expiration`` unless that is 0."""
    duration = _dig(jobspec, "attributes", "system", "duration") or 0.0
    if expiration and duration > expiration - now:
        left = _short(max(0.0, expiration - now))
        text = f"job duration ({_short(duration)}) exceeds remaining instance lifetime ({left})"
        raise FluxError(errno.EINVAL, text)


def _short(seconds: float) -> str:
    """Format a duration with two significant digits, as flux-core does in these texts."""
    full = format_duration(seconds)
    number = full.rstrip("mshd")
    return f"{float(number):.2g}{full[len(number) :]}" if number.replace(".", "").isdigit() else full
