"""Which tasks run where: flux-core's distribution over R (shell/rcalc.c), as a task map (RFC 34)."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

from pytest_flux.broker.exec.options import ERROR, ShellFailure
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import decode_hostlist
from pytest_flux.protocol.jobspec import jobspec_counts
from pytest_flux.protocol.limits import MAX_TASKS, check_limit
from pytest_flux.protocol.resource_set import ResourceSet, lowest, text_of
from pytest_flux.protocol.taskmap import Block, Taskmap, decode_taskmap


class Placement(NamedTuple):
    """The broker ranks in the order of shells, and the tasks of each shell.

    ``resources`` are what tasks are bound to, and ``allocated`` is what R has.
    """

    resources: ResourceSet
    ranks: list[int]
    taskmap: Taskmap
    allocated: ResourceSet

    @property
    def ntasks(self) -> int:
        """The number of tasks of all shells."""
        return self.taskmap.ntasks

    def tasks(self, shell: int) -> list[int]:
        """The ranks of a shell's tasks."""
        try:
            return self.taskmap.tasks_of(shell)
        except ProtocolError:
            return []

    def describe(self, shell: int, hostname: str) -> dict[str, Any]:
        """A shell's node, described as by flux-core's flux_shell_get_rank_info(3)."""
        from pytest_flux.protocol.idset import encode_idset

        node = self.resources.nodes[self.ranks[shell]]
        tasks = self.tasks(shell)
        return {
            "id": shell,
            "name": hostname,
            "broker_rank": self.ranks[shell],
            "ntasks": len(tasks),
            "taskids": encode_idset(tasks),
            "resources": {
                # flux-core does not change this, although the cores are fewer.
                "ncores": self.allocated.nodes[self.ranks[shell]].cores.bit_count(),
                "cores": text_of(node.cores),
                "gpus": text_of(node.gpus),
            },
        }


_MAX_HOSTFILE = 1 << 20


def place(jobspec: dict[str, Any], resources: ResourceSet, options: dict[str, Any]) -> Placement:
    """Distribute a job's tasks. ShellFailure if that is impossible."""
    ranks = list(resources)
    if not ranks:
        raise ShellFailure("R has no ranks")
    counts = _per_resource(options, resources) or _spread(jobspec, resources)
    if not any(counts):
        raise ShellFailure(f"error distributing {sum(counts)} tasks over R")
    _check_tasks(sum(counts))
    taskmap = Taskmap.compact(Block(shell, 1, count) for shell, count in enumerate(counts) if count)
    kept = _adjusted(jobspec, resources, options, counts)
    return Placement(kept, ranks, _remapped(taskmap, options, resources.hosts), resources)


def _adjusted(
    jobspec: dict[str, Any], resources: ResourceSet, options: dict[str, Any], counts: list[int]
) -> ResourceSet:
    """Leave out the resources of slots without a task: all nodes get the same, although some have fewer tasks."""
    try:
        asked = jobspec_counts(jobspec)
    except (ProtocolError, KeyError, TypeError, ValueError):
        return resources
    if (
        asked.nnodes < 2
        or asked.exclusive
        or isinstance(options.get("per-resource"), dict)
        or slot_count(jobspec, resources) <= sum(counts)
    ):
        return resources
    nodes = {
        rank: node._replace(
            cores=lowest(node.cores, count * asked.cores_per_slot),
            gpus=lowest(node.gpus, count * asked.gpus_per_slot),
        )
        for (rank, node), count in zip(resources.nodes.items(), counts, strict=True)
    }
    return ResourceSet(nodes, nslots=resources.nslots, expiration=resources.expiration)


def slot_count(jobspec: dict[str, Any], resources: ResourceSet) -> int:
    """The number of slots. R has it, unless its scheduler leaves it out."""
    if resources.nslots > 0:
        return resources.nslots

    def walk(vertices: object, nodes: bool) -> int:
        for vertex in vertices if isinstance(vertices, list) else []:
            if vertex.get("type") == "slot":
                return int(vertex["count"]) * (len(resources) if nodes else 1)
            if found := walk(vertex.get("with"), nodes or vertex.get("type") == "node"):
                return found
        return 0

    found = walk(jobspec.get("resources"), False)
    if not found:
        raise ShellFailure("error parsing jobspec: Missing slot resource")
    return found


def _spread(jobspec: dict[str, Any], resources: ResourceSet) -> list[int]:
    slots = slot_count(jobspec, resources)
    count = jobspec["tasks"][0]["count"]
    if "total" in count:
        tasks = int(count["total"])
    elif count.get("per_slot") == 1:
        tasks = slots
    else:
        raise ShellFailure(f"error parsing jobspec: per_slot count: expected 1 got {count.get('per_slot')}")
    cores = [node.cores.bit_count() for node in resources.nodes.values()]
    size = sum(cores) // slots or sum(cores) // tasks
    _check_tasks(tasks)
    if not size:
        raise ShellFailure(f"error distributing {tasks} tasks over R")
    return _deal(cores, min(size, *cores) if len(cores) > 1 else min(size, cores[0]), tasks)


def _check_tasks(count: int) -> None:
    try:
        check_limit("tasks of a job", count, MAX_TASKS)
    except ProtocolError as error:
        raise ShellFailure(str(error)) from None


def _deal(cores: list[int], size: int, tasks: int) -> list[int]:
    """Deal tasks to the nodes in turn, the largest first, and again when all are full."""
    counts = [0] * len(cores)
    if size <= 0 or tasks <= 0:
        raise ShellFailure(f"error distributing {tasks} tasks over R")
    rounds = max(0, tasks // sum(free // size for free in cores) - 1)
    if rounds:
        # All rounds but the last are alike: each fills all nodes.
        counts = [rounds * (free // size) for free in cores]
        tasks -= sum(counts)
    left: deque[tuple[int, int]] = deque()
    while tasks:
        if not left:
            order = sorted(range(len(cores)), key=lambda index: -cores[index])
            left = deque((index, cores[index]) for index in order)
        index, free = left.popleft()
        if free >= size:
            counts[index] += 1
            tasks -= 1
            left.append((index, free - size))
    return counts


def _per_resource(options: dict[str, Any], resources: ResourceSet) -> list[int]:
    wanted = options.get("per-resource")
    if not isinstance(wanted, dict):
        return []
    kind, count = wanted.get("type"), wanted.get("count", 1)
    if not isinstance(count, int) or count <= 0:
        raise ShellFailure("error parsing jobspec: per-resource.count must be > 0")
    if kind == "node":
        return [count] * len(resources)
    if kind == "core":
        return [count * node.cores.bit_count() for node in resources.nodes.values()]
    raise ShellFailure(f"error distributing {count} tasks per-{kind} over R")


def _remapped(taskmap: Taskmap, options: dict[str, Any], hosts: Sequence[str]) -> Taskmap:
    wanted = options.get("taskmap")
    if not isinstance(wanted, dict):
        return taskmap
    scheme, value = wanted.get("scheme"), str(wanted.get("value", ""))
    if scheme == "block":
        if value:
            raise ShellFailure(f"block taskmap does not accept a value (got {value})")
        return taskmap
    if scheme == "cyclic":
        return _cyclic(taskmap, value)
    if scheme == "hostfile":
        return _by_hostfile(taskmap, value, hosts)
    if scheme != "manual":
        raise ShellFailure(f"failed to map tasks with scheme={scheme}")
    try:
        mapped = decode_taskmap(value)
    except ProtocolError as error:
        raise ShellFailure(f"taskmap={value}: {error}") from None
    if (mapped.ntasks, mapped.nnodes) != (taskmap.ntasks, taskmap.nnodes):
        raise ShellFailure("failed to set new shell taskmap")
    return mapped


def _cyclic(taskmap: Taskmap, value: str) -> Taskmap:
    stride = int(value) if value.isascii() and value.isdigit() else 0 if value else 1
    if stride <= 0:
        raise ShellFailure(f"invalid cyclic stride: {value}")
    left = [0] * taskmap.nnodes
    for block in taskmap.blocks:
        for node in range(block.nodeid, block.nodeid + block.nnodes):
            left[node] += block.ppn * block.repeat

    def deal() -> Iterator[Block]:
        while any(left):
            for node, count in enumerate(left):
                if count:
                    yield Block(node, 1, min(stride, count))
                    left[node] -= min(stride, count)

    return Taskmap.compact(deal())


def _by_hostfile(taskmap: Taskmap, path: str, hosts: Sequence[str]) -> Taskmap:
    """One task after another on the hosts in a file, from its beginning again if there are more tasks."""
    names: list[str] = []
    try:
        for line in _read_regular(path).splitlines():
            names += decode_hostlist(line)
    except ProtocolError:
        # flux-core goes on with the other lines; it reports this one.
        raise _hostfile_failure(f"hostlist_append: {line}") from None
    except OSError as error:
        raise _hostfile_failure(
            f"failed to open hostfile: {path}: {error.strerror}", "failed to get hostlists from file and R"
        ) from None
    numbers = {host: number for number, host in reversed(list(enumerate(hosts)))}
    chosen = list(islice(cycle(names or [""]), taskmap.ntasks))
    for name in chosen:
        if name not in numbers:
            text = f"failed to map tasks with hostfile:{path}: host {name} not found in job nodelist"
            raise _hostfile_failure(text)
    mapped = Taskmap.compact(Block(numbers[name], 1, 1) for name in chosen)
    if (mapped.ntasks, mapped.nnodes) != (taskmap.ntasks, taskmap.nnodes):
        raise ShellFailure("failed to set new shell taskmap")
    return mapped


def _read_regular(path: str) -> str:
    """The text of a file that cannot block us. OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.read(descriptor, _MAX_HOSTFILE).decode(errors="replace")
    finally:
        os.close(descriptor)


def _hostfile_failure(*texts: str) -> ShellFailure:
    messages = [(ERROR, text, "taskmap.hostfile") for text in texts]
    failed = "taskmap.hostfile failed"
    messages += [(ERROR, f"plugin 'taskmap.hostfile': {failed}", ""), (ERROR, failed, "")]
    return ShellFailure("shell_taskmap", messages=messages)
