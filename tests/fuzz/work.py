"""Requests for what an instance does, each with something wrong in it. Seeded, so that they repeat."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_flux.client.jobspec import from_command
from pytest_flux.protocol.signed_jobspec import sign_none

Request = tuple[str, bytes]
"""Topic and payload."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**70, 1.5, -0.0, float("nan"), float("inf")),
    *("", "x", ".", "..", "a.", ".a", "a..b", "é\0", "\ud800", "a" * 5000, "sha1-0", "ƒ1", "0-", "1-0", "[0-1"),
    *([], [None], {}, {"": None}, [[]], [{"type": "node"}], {"and": [{"x": 1}]}),
)

NUMBERS: tuple[Any, ...] = (
    *(
        -(2**62),
        -1,
        0,
        1,
        2,
        63,
        64,
        2**14,
        2**14 + 1,
        2**20,
        2**30,
        2**31 - 1,
        2**31,
        2**32,
        2**40,
        2**62,
        2**63 - 1,
    ),
    *(1e-300, 0.5, 1e18, 1e300),
)
SETS: tuple[str, ...] = (
    *("0-2147483647", "0-1048575", "4294967295", "0-16383", "0-65535", ",".join(map(str, range(0, 8000, 2)))),
    *("x[1-1048576]", "x[0-18446744073709551615]", "x[1-16384]", ",".join(f"y{n}[1-99]" for n in range(900))),
    *("[[0,1,1,1000000000]]", "[[0,2147483647,1,9]]", "(vector,(0,1,2147483647))", "0-2147483646", "99999999999999"),
)
"""Short texts that stand for very much: sets of ids, lists of hosts, task maps."""

_CORES = {"execution": {"R_lite": [{"rank": "0", "children": {"core": "0"}}], "nodelist": ["a"], "starttime": 0}}
_RESOURCES = {"version": 1, **_CORES}
_VAL = {"ver": 1, "type": "val", "data": "eA=="}

SERVICES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("kvs.commit", {"namespace": "primary", "flags": 0, "ops": [{"key": "a.b", "flags": 0, "dirent": _VAL}]}),
    ("kvs.lookup", {"namespace": "primary", "key": "nosuch.key", "flags": 0}),
    ("kvs.lookup", {"rootdir": {"ver": 1, "type": "dirref", "data": ["sha1-" + "0" * 40]}, "key": "a", "flags": 0}),
    ("kvs.getroot", {"namespace": "nosuch", "flags": 0}),
    ("kvs.wait-version", {"namespace": "nosuch", "rootseq": 0}),
    ("kvs.namespace-create", {"namespace": "primary", "rootref": "sha1-x", "owner": 0, "flags": 0}),
    ("kvs-watch.lookup", {"namespace": "primary", "key": "nosuch", "flags": 4}),
    ("job-manager.raise", {"id": 1, "type": "x", "severity": 0}),
    ("job-manager.kill", {"id": 1, "signum": 15}),
    ("job-manager.urgency", {"id": 1, "urgency": 3}),
    ("job-manager.memo", {"id": 1, "volatile": False, "memo": {"a": 1}}),
    ("job-manager.update", {"id": 1, "updates": {"attributes.system.duration": 1}}),
    ("job-manager.purge", {"age_limit": -1.0, "num_limit": -1, "batch": -1, "force": False}),
    ("job-manager.wait", {"id": 1}),
    ("job-manager.history.get", {"slice": "x"}),
    ("job-manager.queue-enable", {"enable": True, "name": "nosuch"}),
    ("job-info.lookup", {"id": 1, "keys": ["R"], "flags": 0}),
    ("job-info.eventlog-watch", {"id": 1, "path": "eventlog", "flags": 0}),
    ("job-list.list", {"max_entries": -1, "attrs": ["all"], "constraint": {"states": [1]}}),
    ("job-list.list-id", {"id": 1, "attrs": ["all"]}),
    ("feasibility.check", {"jobspec": {}}),
    ("resource.drain", {"targets": "99", "reason": "x", "mode": "update"}),
    ("resource.undrain", {"targets": "99"}),
    ("content.load", {}),
    ("content-backing.load", {}),
    ("event.subscribe", {"topic": "x"}),
    ("event.publish", {"topic": "x", "flags": 0}),
    ("service.add", {"service": "x"}),
    ("attr.set", {"name": "rank", "value": "1"}),
    ("attr.get", {"name": "nosuch"}),
    ("log.dmesg", {"follow": 1}),
    ("groups.join", {"name": 1}),
    ("rexec.exec", {"cmd": {"cmdline": [], "opts": {}, "channels": [], "env": {}}, "flags": 0}),
    ("rexec.kill", {"pid": 0, "signum": 0}),
)


def mutate(value: Any, chance: random.Random) -> Any:  # noqa: ANN401 - JSON
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
        changed[chance.choice(("x", "with", "count", "system", "key"))] = chance.choice(VALUES)
    else:
        changed[key] = mutate(value[key], chance)
    return changed


def _damaged(data: bytes, chance: random.Random) -> bytes:
    mutable = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(mutable))
        if chance.random() < 0.5:
            mutable[place] = chance.randrange(256)
        else:
            del mutable[place : place + chance.randrange(1, 30)]
            mutable += b"}"
    return bytes(mutable)


def _encode(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass") + b"\0"


class Generator:
    """Malformed work. ``directory`` takes files with resources that are none."""

    def __init__(self, seed: int, directory: Path) -> None:
        self._chance = random.Random(seed)
        self._path = directory / "R.json"
        self._spec = from_command(["true"], tasks=2, nodes=1, duration=60, environment={"A": "1"})
        self._kinds: tuple[Callable[[], tuple[str, Any]], ...] = (
            *(self._jobspec, self._jobspec, self._signed, self._submission, self._resources),
            *(self._question, self._question, self._question, self._payload, self._key),
            *(self._number, self._number, self._constraint, self._large_resources),
        )

    def __iter__(self) -> Iterator[Request]:
        while True:
            topic, payload = self._chance.choice(self._kinds)()
            yield topic, payload if isinstance(payload, bytes) else _encode(payload)

    def _submit(self, signed: object) -> tuple[str, Any]:
        return "job-ingest.submit", {"J": signed, "urgency": 16, "flags": 0}

    def _jobspec(self) -> tuple[str, Any]:
        spec = mutate(self._spec, self._chance)
        return self._submit(sign_none(json.dumps(spec).encode(), os.getuid()))

    def _number(self) -> tuple[str, Any]:
        """A jobspec that is well formed, but for the size of a number or two."""
        spec: dict[str, Any] = json.loads(json.dumps(self._spec))
        for _ in range(self._chance.randrange(1, 3)):
            place, key = self._chance.choice(self._places(spec))
            place[key] = self._chance.choice(NUMBERS)
        return self._submit(sign_none(json.dumps(spec).encode(), os.getuid()))

    def _places(self, spec: dict[str, Any]) -> list[tuple[Any, str]]:
        node, task, system = spec["resources"][0], spec["tasks"][0], spec["attributes"]["system"]
        slot = node["with"][0]
        task["count"] = self._chance.choice(({"per_slot": 1}, {"total": 3}))
        options = system.setdefault("shell", {}).setdefault("options", {})
        per_resource = {"type": self._chance.choice(("core", "node")), "count": 1}
        signal = {"signum": 10, "timeleft": 30}
        taskmap = {"scheme": self._chance.choice(("cyclic", "manual", "block")), "value": self._chance.choice(SETS)}
        chosen: tuple[str, Any] = self._chance.choice(
            (("per-resource", per_resource), ("signal", signal), ("taskmap", taskmap), ("exit-timeout", 3))
        )
        options.update([chosen])
        places = [(node, "count"), (slot, "count"), (slot["with"][0], "count"), (system, "duration")]
        places += [(task["count"], key) for key in task["count"]]
        places += [(signal, key) for key in signal] + [(per_resource, "count"), (options, "exit-timeout")]
        return [*places, (options, "verbose"), (options, "cpu-affinity"), (options, "nosetpgrp")]

    def _constraint(self) -> tuple[str, Any]:
        """A constraint that is deep, wide, or has sets of very many hosts or ranks, of a job or of a list of jobs."""
        chance = self._chance
        operator = chance.choice(("hostlist", "ranks", "properties"))
        values = [chance.choice(SETS)] * chance.choice((1, 6, 300))
        constraint: dict[str, Any] = {operator: values if len(str(values)) < 100_000 else values[:1]}
        for _ in range(chance.choice((0, 1, 40, 200))):
            constraint = {chance.choice(("and", "or", "not")): [constraint] * chance.choice((1, 1, 1, 2))}
            if len(str(constraint)) > 100_000:
                break
        if chance.random() < 0.5:
            return "job-list.list", {"max_entries": 1, "attrs": ["all"], "constraint": constraint}
        spec: dict[str, Any] = json.loads(json.dumps(self._spec))
        spec["attributes"]["system"]["constraints"] = constraint
        if chance.random() < 0.5:
            return "feasibility.check", {"jobspec": spec}
        return self._submit(sign_none(json.dumps(spec).encode(), os.getuid()))

    def _large_resources(self) -> tuple[str, Any]:
        """A resource set of very many ranks, cores or hosts; or targets of that kind."""
        chance = self._chance
        if chance.random() < 0.5:
            return "resource.drain", {"targets": chance.choice(SETS), "reason": "x"}
        execution = {
            "R_lite": [{"rank": chance.choice(SETS), "children": {"core": chance.choice(SETS)}}]
            * chance.choice((1, 9)),
            "nodelist": [chance.choice(SETS)],
        }
        path = self._path.with_name(f"{self._path.name}.{chance.randrange(512)}")
        path.write_text(json.dumps({"version": 1, "execution": execution}))
        return "resource.reload", {"path": str(path), "xml": False, "force": True}

    def _signed(self) -> tuple[str, Any]:
        signed = sign_none(json.dumps(self._spec).encode(), os.getuid()).encode()
        return self._submit(_damaged(signed, self._chance).decode(errors="replace"))

    def _submission(self) -> tuple[str, Any]:
        topic, payload = self._submit(sign_none(b"{}", os.getuid()))
        return topic, mutate(payload, self._chance)

    def _resources(self) -> tuple[str, Any]:
        # Renamed, for the file may be read only after the next one was written.
        text = json.dumps(mutate(_RESOURCES, self._chance)).encode()
        path = self._path.with_name(f"{self._path.name}.{self._chance.randrange(512)}")
        path.write_bytes(_damaged(text, self._chance) if self._chance.random() < 0.3 else text)
        return "resource.reload", {"path": str(path), "xml": False, "force": self._chance.random() < 0.5}

    def _question(self) -> tuple[str, Any]:
        topic, payload = self._chance.choice(SERVICES)
        return topic, mutate(payload, self._chance)

    def _payload(self) -> tuple[str, Any]:
        topic, payload = self._chance.choice(SERVICES)
        return topic, _damaged(json.dumps(payload).encode() + b"\0", self._chance)

    def _key(self) -> tuple[str, Any]:
        key = "".join(self._chance.choices("ab.é\0 \n", k=self._chance.randrange(12)))
        return "kvs.lookup", {"namespace": "primary", "key": f"{key}.", "flags": self._chance.randrange(600)}
