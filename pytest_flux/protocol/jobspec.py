"""Jobspec version 1 (RFC 25, "Jobspec Language Definition"), as flux-core's job validator checks it, in its words."""

from __future__ import annotations

import re
from collections.abc import Collection

from pytest_flux.protocol.constraint import validate_constraint
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_value import decode_json
from pytest_flux.protocol.limits import MAX_DEPENDENCIES, MAX_RESOURCE_DEPTH, check_limit
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Jobspec = dict[str, "Any"]

_KEYS = frozenset(("resources", "tasks", "version", "attributes"))
_TASK_KEYS = ("command", "count", "slot")
_COUNT_KEYS = frozenset(("per_slot", "per_resource", "total"))
_POSITIVE = frozenset(("node", "slot", "core"))
_RANGE = re.compile(r"[0-9]+(?:-[0-9]+|\+)(?::[0-9]+(?::[-+*^])?)?")


class Counts(NamedTuple):
    """The resources that a jobspec asks for, added up. ``nnodes`` is 0 if it does not ask for nodes.

    ``nslots`` counts the slots of all nodes together.
    """

    nnodes: int
    nslots: int
    cores_per_slot: int
    gpus_per_slot: int
    exclusive: bool
    duration: float


def decode_jobspec(data: bytes) -> Jobspec:
    """A jobspec from its JSON text, not validated. Raises ProtocolError, in job-ingest's words, if it is not JSON."""
    try:
        jobspec = decode_json(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("jobspec: invalid JSON", str(error)) from None
    if not isinstance(jobspec, dict):
        raise ProtocolError("jobspec must be a mapping")
    return jobspec


def validate_jobspec(jobspec: Jobspec, hosts: Collection[str] | None = None) -> None:
    """Raise ProtocolError, which names the field, unless this is a jobspec of version 1.

    ``hosts`` are the instance's, to check constraints that name hosts. None skips that check.
    """
    for key in sorted(_KEYS - jobspec.keys()):
        raise ProtocolError(f"Missing key ({key})")
    for key in sorted(jobspec.keys() - _KEYS):
        raise ProtocolError(f"Extraneous key ({key[:80]})")
    resources, tasks, attributes = jobspec["resources"], jobspec["tasks"], jobspec["attributes"]
    version = jobspec["version"]
    if version != 1 or isinstance(version, bool):
        raise ProtocolError("version must be 1")
    if not isinstance(resources, list):
        raise ProtocolError("resources must be a sequence")
    if not isinstance(tasks, list):
        raise ProtocolError("tasks must be a sequence")
    if not isinstance(attributes, dict):
        raise ProtocolError("attributes must be a mapping")
    _validate_resources(resources, 0)
    for task in tasks:
        _validate_task(task)
    _validate_attributes(attributes, hosts)
    for task in tasks:
        if not task["count"].keys() & {"per_slot", "total"}:
            raise ProtocolError("count per_slot or total must be set")
    _validate_counts(resources)


def _validate_resources(resources: list[Any], depth: int) -> None:
    if depth > MAX_RESOURCE_DEPTH:
        raise ProtocolError(f"jobspec resource nesting exceeds maximum depth {MAX_RESOURCE_DEPTH}")
    for resource in resources:
        _validate_resource(resource)
        below = resource.get("with", [])
        if not isinstance(below, list):
            raise ProtocolError("with must be a sequence")
        _validate_resources(below, depth + 1)


def _validate_resource(resource: object) -> None:
    if not isinstance(resource, dict):
        raise ProtocolError("resource must be a mapping")
    if "type" not in resource:
        raise ProtocolError("type is a required key for resources")
    if not isinstance(resource["type"], str):
        raise ProtocolError("type must be a string")
    if "count" not in resource:
        raise ProtocolError("count is a required key for resources")
    count = resource["count"]
    if isinstance(count, str):
        if not _RANGE.fullmatch(count) and not re.fullmatch(r"\[?[0-9,-]+\]?", count):
            raise ProtocolError("count string must be a valid idset or range")
    elif isinstance(count, (dict, bool)):
        pass  # version 1 has no ranges: refused below, in the words for that
    elif not isinstance(count, int):
        raise ProtocolError("count must be an int or mapping")
    elif resource["type"] in _POSITIVE and count < 1:
        raise ProtocolError("node, slot, or core count must be > 0")
    elif count < 0:
        raise ProtocolError("count must be >= 0")
    for key in ("id", "unit", "label"):
        if key in resource and not isinstance(resource[key], str):
            raise ProtocolError(f"{key} must be a string")
    if resource.get("exclusive", False) not in (True, False):
        raise ProtocolError("exclusive must be a boolean")
    if resource["type"] == "slot" and "label" not in resource:
        raise ProtocolError("slots must have labels")


def _validate_counts(resources: list[Any]) -> None:
    for resource in resources:
        count = resource["count"]
        if not isinstance(count, int) or isinstance(count, bool):
            raise ProtocolError(
                f"resource count must be an integer for type '{resource['type'][:80]}' (got '{type(count).__name__}')"
            )
        _validate_counts(resource.get("with", []))


def _validate_task(task: object) -> None:
    if not isinstance(task, dict):
        raise ProtocolError("task must be a mapping")
    for key in _TASK_KEYS:
        if key not in task:
            raise ProtocolError(f"Missing key ({key})")
    count = task["count"]
    if not isinstance(count, dict):
        raise ProtocolError("count must be a mapping")
    if len(count) != 1:
        raise ProtocolError("count must have exactly one key set")
    if not _COUNT_KEYS & count.keys():
        raise ProtocolError("count per_slot, per_resource, or total must be set")
    for key in ("total", "per_slot"):
        if key in count:
            if not isinstance(count[key], int) or isinstance(count[key], bool):
                raise ProtocolError(f"count {key} must be an int")
            if count[key] <= 0:
                raise ProtocolError(f"count {key} must be > 0")
    if not isinstance(task["slot"], str):
        raise ProtocolError("slot must be a string")
    if not isinstance(task.get("attributes", {}), dict):
        raise ProtocolError("attributes must be a mapping")
    command = task["command"]
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ProtocolError("command must be a list of strings")
    if not command:
        raise ProtocolError("command array cannot have length of zero")


def _validate_attributes(attributes: dict[str, Any], hosts: Collection[str] | None) -> None:
    for key in sorted(attributes.keys() - {"system", "user"}):
        raise ProtocolError(f"Extraneous key ({key[:80]})")
    if "system" not in attributes:
        raise ProtocolError("attributes.system is a required key")
    system = attributes["system"]
    if not isinstance(system, dict):
        raise ProtocolError("attributes.system must be a mapping")
    dependencies = system.get("dependencies", [])
    if not isinstance(dependencies, list):
        raise ProtocolError("attributes.system.dependencies must be a list")
    check_limit("attributes.system.dependencies", len(dependencies), MAX_DEPENDENCIES)
    for dependency in dependencies:
        _validate_dependency(dependency)
    if "constraints" in system:
        validate_constraint(system["constraints"], hosts)
    if "duration" not in system:
        raise ProtocolError("attributes.system.duration is a required key")
    duration = system["duration"]
    if not isinstance(duration, (int, float)) or isinstance(duration, bool):
        raise ProtocolError("attributes.system.duration must be a number")
    if not 0 <= duration < float("inf"):
        raise ProtocolError("attributes.system.duration must be a finite number, zero or more")


def _validate_dependency(dependency: object) -> None:
    if not isinstance(dependency, dict):
        raise ProtocolError("dependency must be a mapping")
    for key in ("scheme", "value"):
        if key not in dependency:
            raise ProtocolError(f"Missing key ({key})")
        if not isinstance(dependency[key], str):
            raise ProtocolError(f"dependency {key} must be a string")


def jobspec_counts(jobspec: Jobspec) -> Counts:
    """The resources that a jobspec asks for. Raises ProtocolError, in flux-core's words, if that is unclear."""
    found = {"node": 0, "slot": 0, "core": 0, "gpu": 0}
    exclusive = False

    def walk(resources: object, depth: int, factor: int) -> None:
        nonlocal exclusive
        if not isinstance(resources, list) or depth > MAX_RESOURCE_DEPTH:
            raise ProtocolError(f"level {depth}: must be an array")
        for resource in resources:
            try:
                kind, count = resource["type"], resource["count"]
                if not isinstance(count, int) or count <= 0:
                    raise ProtocolError(f"Invalid count {count} for type '{kind}'")
            except (KeyError, TypeError):
                raise ProtocolError(f"level {depth}: not a resource") from None
            if kind == "node":
                found["node"] = factor * count
                exclusive = exclusive or bool(resource.get("exclusive"))
            elif kind in found:
                found[kind] = count
            if "with" in resource:
                walk(resource["with"], depth + 1, factor * count)

    try:
        duration = float(jobspec["attributes"]["system"]["duration"])
    except (KeyError, TypeError, ValueError):
        raise ProtocolError("at top level: getting duration: attributes.system.duration not found") from None
    walk(jobspec.get("resources"), 0, 1)
    if not found["slot"]:
        raise ProtocolError("Unable to determine slot count")
    if not found["core"]:
        raise ProtocolError("Unable to determine slot size")
    nslots = found["slot"] * (found["node"] or 1)
    return Counts(found["node"], nslots, found["core"], found["gpu"], exclusive, duration)


def system_attributes(jobspec: Jobspec) -> dict[str, Any]:
    """``attributes.system``, or an empty object if a jobspec that was not validated lacks it."""
    attributes = jobspec.get("attributes")
    system = attributes.get("system") if isinstance(attributes, dict) else None
    return system if isinstance(system, dict) else {}


def set_path(target: dict[str, Any], path: str, value: object) -> None:
    """Set the value at a path with dots, and create the objects on the way (flux-core's jpath_set)."""
    *parents, last = path.split(".")
    for name in parents:
        below = target.get(name)
        if not isinstance(below, dict):
            below = target[name] = {}
        target = below
    target[last] = value
