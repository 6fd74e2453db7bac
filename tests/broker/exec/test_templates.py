"""Templates, and which processors tasks get."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_flux.broker.exec.affinity import bindings, choice, cpu_map, distribute, gpu_environ
from pytest_flux.broker.exec.mustache import Tags, TagsOfTask, render
from pytest_flux.broker.exec.options import ShellFailure
from pytest_flux.protocol.resource_set import Node

JOB = 16995319808


def _node(shell: int) -> dict[str, Any]:
    return {"id": shell, "name": f"host{shell}", "resources": {"cores": "0-1", "ncores": 2}}


TAGS = Tags(JOB, "ƒStpTUK", "work", 4, _node, 2, "/tmp/x")
TASK = TagsOfTask(3, 1)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{id}}", "ƒStpTUK"),
        ("{{jobid.dec}}-{{id.f58plain}}", "16995319808-fStpTUK"),
        ("{{id.nonsense}}", "{{id.nonsense}}"),
        ("{{taskid}} {{task.rank}} {{task.index}}", "3 3 1"),
        ("{{node.id}} {{node.name}} {{node.cores}} {{node.ncores}}", "1 host1 0-1 2"),
        ("{{name}} {{nnodes}} {{ntasks}} {{size}} {{tmpdir}}", "work 2 4 4 /tmp/x"),
        ("{{unknown}} {{node.unknown}}", "{{unknown}} {{node.unknown}}"),
        ("a{{id", "a{{id"),
        ("{{{{name}}", "{{{{name}}"),
        ("}}{{name}}}}", "}}work}}"),
    ],
)
def test_tags(template: str, text: str) -> None:
    assert TAGS.render(template, node=1, task=TASK) == text


def test_without_a_task_its_tags_stay() -> None:
    assert TAGS.render("{{id.dec}}.{{taskid}}.{{node.id}}", node=2) == f"{JOB}.{{{{taskid}}}}.{{{{node.id}}}}"


def test_which_templates_differ_between_shells() -> None:
    assert not TAGS.is_per_shell("{{id}}", TASK)
    for template in ("{{node.id}}", "{{taskid}}", "{{tmpdir}}/out"):
        assert TAGS.is_per_shell(template, TASK)
        assert not Tags(JOB, "ƒStpTUK", "work", 4, _node, 1, "/tmp/x").is_per_shell(template, TASK)


def test_rendering_asks_for_each_tag() -> None:
    assert render("a{{b}}c{{d}}", str.upper) == "aBcD"


CORES = [frozenset((0, 4)), frozenset((1, 5)), frozenset((2, 6)), frozenset((3, 7))]


def test_binding_to_all_cores_of_the_job() -> None:
    assert bindings(choice({}), Node("a", 0b110, 0), CORES, 2) == [frozenset((1, 5, 2, 6))] * 2
    assert bindings(choice({"cpu-affinity": "off"}), Node("a", 0b110, 0), CORES, 2) == [None, None]


def test_binding_per_task() -> None:
    found = bindings(choice({"cpu-affinity": "per-task"}), Node("a", 0b1111, 0), CORES, 2)
    assert found == [CORES[0] | CORES[1], CORES[2] | CORES[3]]


def test_more_tasks_than_cores_share_them() -> None:
    assert distribute(CORES[:2], 4) == [CORES[0], CORES[0], CORES[1], CORES[1]]
    assert distribute(CORES[:3], 2) == [CORES[0], CORES[1] | CORES[2]]


def test_cores_that_are_not_there_cannot_be_bound_to() -> None:
    with pytest.raises(LookupError):
        bindings(choice({}), Node("a", 1 << 4, 0), CORES, 1)


def test_maps() -> None:
    assert cpu_map("0-1;3;0xc", 4) == [frozenset((0, 1)), frozenset((3,)), frozenset((2, 3)), frozenset((0, 1))]
    for text in ("", "x", "0x0"):
        with pytest.raises(ShellFailure):
            cpu_map(text, 1)


def test_gpus() -> None:
    node = Node("a", 1, 0b1101)
    assert gpu_environ({}, node, 0, 1) == {"CUDA_VISIBLE_DEVICES": "0,2,3"}
    assert gpu_environ({}, Node("a", 1, 0), 0, 1) == {"CUDA_VISIBLE_DEVICES": "-1"}
    assert gpu_environ({"gpu-affinity": "off"}, node, 0, 1) == {}
    assert gpu_environ({"gpu-affinity": "per-task"}, node, 1, 3) == {"CUDA_VISIBLE_DEVICES": "2"}
    assert gpu_environ({"gpu-affinity": "map:3;0"}, node, 1, 2) == {"CUDA_VISIBLE_DEVICES": "0"}
