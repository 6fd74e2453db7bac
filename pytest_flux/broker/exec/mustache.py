"""Templates in paths, arguments and environment of jobs: ``{{id}}``, ``{{taskid}}``, ``{{node.id}}`` and so on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_flux.protocol import fluid
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_value import compact_ascii
from pytest_flux.protocol.limits import MAX_TEMPLATE, Budget

Tag = Callable[[str], str | None]
"""The text for a tag, or None for an unknown one, which then stays as it is."""


def render(template: str, tag: Tag) -> str:
    """Fill in the tags of a template. Braces that are not closed stay, with all that follows.

    Raises ProtocolError if the result exceeds MAX_TEMPLATE.
    """
    parts = template.split("{{")
    length = Budget("characters of a template", MAX_TEMPLATE)
    done = [parts[0]]
    for position, part in enumerate(parts[1:], start=1):
        name, end, rest = part.partition("}}")
        if not end:
            done.append("{{" + "{{".join(parts[position:]))
            break
        text = tag(name)
        done.append((f"{{{{{name}}}}}" if text is None else text) + rest)
        length.spend(len(done[-1]))
    return "".join(done)


class TagsOfTask(NamedTuple):
    """A task's rank in the job and its number on the node."""

    rank: int
    local_id: int


class Tags:
    """The values of tags in one job. ``nodes`` describes the node of each shell, ``tmpdir`` is this shell's.

    ``f58`` is the job's id as the shell writes it.
    """

    def __init__(
        self,
        job_id: int,
        f58: str,
        name: str,
        ntasks: int,
        nodes: Callable[[int], dict[str, Any]],
        size: int,
        tmpdir: str,
    ) -> None:
        self._id = job_id
        self._f58 = f58
        self._nodes = nodes
        self._size = size
        self._plain = {
            "name": name,
            "nnodes": str(size),
            "ntasks": str(ntasks),
            "size": str(ntasks),
            "tmpdir": tmpdir,
        }

    def render(self, template: str, *, node: int, task: TagsOfTask | None = None) -> str:
        """Fill in a template for a shell and a task. If there is no shell of that rank, its tags stay."""
        if "{{" not in template:
            return template
        return render(template, lambda name: self._tag(name, node, task))

    def is_per_shell(self, template: str, task: TagsOfTask) -> bool:
        """Whether a template may differ from shell to shell."""
        if self._size == 1:
            return False
        if "{{tmpdir}}" in template:
            return True
        first = self.render(template, node=0)
        return first != self.render(template, node=1) or first != self.render(template, node=0, task=task)

    def _tag(self, name: str, node: int, task: TagsOfTask | None) -> str | None:
        if name.startswith("jobid"):
            name = name[3:]
        elif name == "taskid":
            name = "task.id"
        if name.startswith("id"):
            return self._job_id(name)
        if name.startswith("task."):
            known = {"id": 0, "rank": 0, "index": 1, "localid": 1}
            return str(task[known[name[5:]]]) if task is not None and name[5:] in known else None
        if name.startswith("node."):
            return self._node(name[5:], node)
        return self._plain.get(name)

    def _job_id(self, name: str) -> str | None:
        kind = name[3:] if name[2:3] == "." else "f58" if name == "id" else ""
        try:
            return self._f58 if kind == "f58" else fluid.encode_fluid(self._id, kind)
        except ProtocolError:
            return None

    def _node(self, name: str, node: int) -> str | None:
        if not 0 <= node < self._size:
            return None
        if name in ("cores", "gpus", "ncores"):
            name = f"resources.{name}"
        value: Any = self._nodes(node)
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value if isinstance(value, str) else compact_ascii(value)


def job_name(jobspec: dict[str, Any]) -> str:
    """The name of a job: the one it was given, or that of its program."""
    system = jobspec["attributes"].get("system", {})
    name = (system.get("job") or {}).get("name")
    return name if isinstance(name, str) else os.path.basename(jobspec["tasks"][0]["command"][0])
