"""Which task runs where: flux-core's distribution."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_flux.broker.exec.options import ShellFailure
from pytest_flux.broker.exec.placement import place
from pytest_flux.protocol.resource_set import Node, ResourceSet


def _resources(*cores: int, nslots: int = 0) -> ResourceSet:
    nodes = {rank + 4: Node(f"n{rank}", (1 << count) - 1, 0) for rank, count in enumerate(cores)}
    return ResourceSet(nodes, nslots=nslots)


def _jobspec(count: dict[str, int]) -> dict[str, Any]:
    slot = {"type": "slot", "count": 3, "with": [{"type": "core", "count": 1}], "label": "task"}
    return {"resources": [slot], "tasks": [{"command": ["true"], "slot": "task", "count": count}]}


@pytest.mark.parametrize(
    ("cores", "nslots", "count", "options", "raw"),
    [
        ((2, 2), 4, {"per_slot": 1}, {}, "0-1;2-3"),
        ((2, 1), 3, {"per_slot": 1}, {}, "0-1;2"),
        ((1, 2), 0, {"per_slot": 1}, {}, "0;1-2"),
        ((4, 4), 2, {"total": 4}, {}, "0-1;2-3"),
        ((1,), 1, {"total": 3}, {}, "0-2"),
        ((2, 2), 4, {"total": 3}, {}, "0-1;2"),
        ((2, 2), 4, {"per_slot": 1}, {"taskmap": {"scheme": "cyclic"}}, "0,2;1,3"),
        ((4, 4), 8, {"per_slot": 1}, {"taskmap": {"scheme": "cyclic", "value": "2"}}, "0-1,4-5;2-3,6-7"),
        ((2, 2), 4, {"per_slot": 1}, {"taskmap": {"scheme": "manual", "value": "[[1,1,2,1],[0,1,2,1]]"}}, "2-3;0-1"),
        ((2, 4), 6, {"total": 1}, {"per-resource": {"type": "node", "count": 2}}, "0-1;2-3"),
        ((2, 4), 6, {"total": 1}, {"per-resource": {"type": "core"}}, "0-1;2-5"),
        ((1, 2), 3, {"total": 8}, {}, "0-2;3-7"),
        ((1, 2), 3, {"total": 10}, {}, "0-2;3-9"),
        ((1, 2), 3, {"total": 8}, {"taskmap": {"scheme": "cyclic"}}, "0,2,4;1,3,5-7"),
    ],
)
def test_placement(
    cores: tuple[int, ...], nslots: int, count: dict[str, int], options: dict[str, Any], raw: str
) -> None:
    placement = place(_jobspec(count), _resources(*cores, nslots=nslots), options)
    assert placement.taskmap.encode_raw() == raw
    assert placement.ranks == [4 + index for index in range(len(cores))]


@pytest.mark.parametrize(
    ("count", "options", "text"),
    [
        ({"per_slot": 2}, {}, "per_slot count: expected 1 got 2"),
        ({"total": 5}, {}, "error distributing 5 tasks over R"),
        ({"total": 1}, {"per-resource": {"type": "gpu"}}, "per-gpu"),
        ({"total": 1}, {"per-resource": {"type": "core", "count": 0}}, "per-resource.count must be > 0"),
        ({"total": 2}, {"taskmap": {"scheme": "block", "value": "1"}}, "block taskmap does not accept a value"),
        ({"total": 2}, {"taskmap": {"scheme": "cyclic", "value": "x"}}, "invalid cyclic stride"),
        ({"total": 2}, {"taskmap": {"scheme": "manual", "value": "[[0,1,1,1]]"}}, "failed to set new shell taskmap"),
        ({"total": 2}, {"taskmap": {"scheme": "odd"}}, "failed to map tasks with scheme=odd"),
    ],
)
def test_what_cannot_be_placed(count: dict[str, int], options: dict[str, Any], text: str) -> None:
    # Three slots on no cores at all: nothing can be counted in cores per slot.
    cores = () if "error distributing" in text else (1, 1)
    resources = _resources(*cores) if cores else ResourceSet({0: Node("a", 0, 1)})
    with pytest.raises(ShellFailure, match=text):
        place(_jobspec(count), resources, options)
