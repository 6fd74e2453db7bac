"""Jobspecs: what is taken, what is refused and in which words (those of flux-core 0.88's validator)."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.jobspec import (
    Counts,
    decode_jobspec,
    jobspec_counts,
    set_path,
    system_attributes,
    validate_jobspec,
)

GOOD: dict[str, Any] = {
    "resources": [
        {
            "type": "node",
            "count": 2,
            "with": [
                {"type": "slot", "count": 2, "with": [{"type": "core", "count": 3}], "label": "task"},
            ],
        }
    ],
    "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}],
    "attributes": {"system": {"duration": 0, "cwd": "/tmp"}},
    "version": 1,
}


def test_a_good_one() -> None:
    """And what it asks for."""
    validate_jobspec(GOOD)
    assert jobspec_counts(GOOD) == Counts(2, 4, 3, 0, False, 0.0)


def _changed(path: str, value: object) -> dict[str, Any]:
    """GOOD, but for one member; a value of None removes it."""
    spec = copy.deepcopy(GOOD)
    target: Any = spec
    *parents, last = path.split(".")
    for name in parents:
        target = target[int(name) if isinstance(target, list) else name]
    key: Any = int(last) if isinstance(target, list) else last
    if value is None:
        del target[key]
    else:
        target[key] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("version", None, "Missing key (version)"),
        ("extra", 1, "Extraneous key (extra)"),
        ("version", 2, "version must be 1"),
        ("version", "1", "version must be 1"),
        ("resources", {}, "resources must be a sequence"),
        ("tasks", 3, "tasks must be a sequence"),
        ("attributes", [], "attributes must be a mapping"),
        ("resources.0", [], "resource must be a mapping"),
        ("resources.0.type", None, "type is a required key for resources"),
        ("resources.0.type", 1, "type must be a string"),
        ("resources.0.count", None, "count is a required key for resources"),
        ("resources.0.count", 0, "node, slot, or core count must be > 0"),
        ("resources.0.count", 1.5, "count must be an int or mapping"),
        ("resources.0.count", "2+", "resource count must be an integer for type 'node' (got 'str')"),
        ("resources.0.count", "x", "count string must be a valid idset or range"),
        ("resources.0.count", {"min": 1}, "resource count must be an integer for type 'node' (got 'dict')"),
        ("resources.0.count", True, "resource count must be an integer for type 'node' (got 'bool')"),
        ("resources.0.with", 1, "with must be a sequence"),
        ("resources.0.with.0.label", None, "slots must have labels"),
        ("resources.0.with.0.label", 1, "label must be a string"),
        ("resources.0.exclusive", "yes", "exclusive must be a boolean"),
        ("tasks.0", 1, "task must be a mapping"),
        ("tasks.0.command", None, "Missing key (command)"),
        ("tasks.0.command", "true", "command must be a list of strings"),
        ("tasks.0.command", [1], "command must be a list of strings"),
        ("tasks.0.command", [], "command array cannot have length of zero"),
        ("tasks.0.slot", 1, "slot must be a string"),
        ("tasks.0.count", 1, "count must be a mapping"),
        ("tasks.0.count", {}, "count must have exactly one key set"),
        ("tasks.0.count", {"x": 1}, "count per_slot, per_resource, or total must be set"),
        ("tasks.0.count", {"per_resource": {}}, "count per_slot or total must be set"),
        ("tasks.0.count", {"per_slot": "1"}, "count per_slot must be an int"),
        ("tasks.0.count", {"total": 0}, "count total must be > 0"),
        ("attributes.other", {}, "Extraneous key (other)"),
        ("attributes.system", None, "attributes.system is a required key"),
        ("attributes.system", [], "attributes.system must be a mapping"),
        ("attributes.system.duration", None, "attributes.system.duration is a required key"),
        ("attributes.system.duration", "1h", "attributes.system.duration must be a number"),
        ("attributes.system.duration", -1, "attributes.system.duration must be a finite number, zero or more"),
        ("attributes.system.dependencies", {}, "attributes.system.dependencies must be a list"),
        ("attributes.system.dependencies", [{"value": "1"}], "Missing key (scheme)"),
        ("attributes.system.dependencies", [{"scheme": 1, "value": "1"}], "dependency scheme must be a string"),
        ("attributes.system.constraints", {"foo": []}, "unknown constraint operator 'foo'"),
    ],
)
def test_what_is_refused(path: str, value: object, text: str) -> None:
    """The text names the field."""
    with pytest.raises(ProtocolError) as caught:
        validate_jobspec(_changed(path, value))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("resources.0.with.0.type", "socket", "Unable to determine slot count"),
        ("resources.0.with.0.with.0.type", "gpu", "Unable to determine slot size"),
        ("resources.0.count", "1-2", "Invalid count 1-2 for type 'node'"),
        ("resources", 1, "level 0: must be an array"),
        ("resources.0", 1, "level 0: not a resource"),
        ("attributes.system", None, "getting duration"),
    ],
)
def test_what_the_scheduler_refuses(path: str, value: object, text: str) -> None:
    """Jobs that were not validated come that far."""
    with pytest.raises(ProtocolError, match=text.replace("(", "\\(")):
        jobspec_counts(_changed(path, value))


def test_what_is_no_json() -> None:
    """Nor an object."""
    for data in (b"", b"{", b"\xff", b"[" * 100000):
        with pytest.raises(ProtocolError, match=r"^jobspec: invalid JSON"):
            decode_jobspec(data)
    with pytest.raises(ProtocolError, match="must be a mapping"):
        decode_jobspec(b"[]")


def test_nesting_is_bounded() -> None:
    """Rather than by the stack."""
    resource: dict[str, Any] = {"type": "core", "count": 1}
    for _ in range(500):
        resource = {"type": "x", "count": 1, "with": [resource]}
    spec = {**GOOD, "resources": [resource]}
    with pytest.raises(ProtocolError, match="nesting"):
        validate_jobspec(spec)
    with pytest.raises(ProtocolError):
        jobspec_counts(spec)


def test_paths() -> None:
    """Members on the way are made."""
    target: dict[str, Any] = {"a": 1}
    set_path(target, "a.b.c", 2)
    assert target == {"a": {"b": {"c": 2}}}
    assert system_attributes({}) == system_attributes({"attributes": []}) == {}


VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**70, 1.5, float("nan"), "", "x", [], [None], {}, {"": None}, [[]])


def mutate(value: Any, chance: random.Random) -> Any:  # noqa: ANN401
    """A value with something wrong somewhere in it."""
    if chance.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(VALUES)
    if isinstance(value, list):
        index = chance.randrange(len(value))
        return [*value[:index], mutate(value[index], chance), *value[index + 1 :]]
    key = chance.choice(list(value))
    changed = dict(value)
    if chance.random() < 0.2:
        del changed[key]
    elif chance.random() < 0.1:
        changed[chance.choice(("x", "with", "count", "system"))] = chance.choice(VALUES)
    else:
        changed[key] = mutate(value[key], chance)
    return changed


def test_thousands_of_malformed_ones() -> None:
    """Each is taken or refused, in one way; what is taken can be counted or is refused by the scheduler."""
    chance = random.Random(25)
    refused = 0
    for _ in range(20_000):
        spec = mutate(GOOD, chance)
        try:
            validate_jobspec(decode_jobspec(json.dumps(spec).encode()))
        except ProtocolError:
            refused += 1
            continue
        with contextlib.suppress(ProtocolError):
            jobspec_counts(spec)
    assert refused > 15_000


@given(st.binary(max_size=100))
def test_garbage(data: bytes) -> None:
    """The first error is the only kind."""
    with pytest.raises(ProtocolError):
        validate_jobspec(decode_jobspec(data))
