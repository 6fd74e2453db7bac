"""The processors and gpus of each task: the shell options ``cpu-affinity`` and ``gpu-affinity``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pytest_flux.broker.exec.options import ShellFailure
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.resource_set import Node, ids_of

Cpus = frozenset[int]


class Choice(NamedTuple):
    """The option ``cpu-affinity``. ``tells`` logs the binding; ``is_dry`` logs it and does nothing."""

    option: str
    tells: bool = False
    is_dry: bool = False

    @property
    def is_per_task(self) -> bool:
        """Whether tasks get different processors."""
        return self.option == "per-task" or self.option.startswith("map:")


def choice(options: dict[str, Any]) -> Choice:
    """Read the option: its first words may be ``verbose`` and ``dry-run``."""
    option = options.get("cpu-affinity", "on")
    if not isinstance(option, str):
        return Choice("off")
    tells = is_dry = False
    while option.startswith(("verbose", "dry-run")):
        tells = True
        is_dry |= option.startswith("dry-run")
        # Both words have seven letters.
        option = option[7:].removeprefix(",")
    return Choice(option, tells and option != "off", is_dry)


def processors(node: Node, cores: Sequence[Cpus]) -> Cpus:
    """The processors of a node's cores. LookupError if this machine does not have all of the cores."""
    return frozenset().union(*(cores[core] for core in ids_of(node.cores)))


def describe(choice: Choice, mine: Cpus, bound: Sequence[Cpus | None], ranks: Sequence[int]) -> Iterator[str]:
    """The lines of the log that describe a binding."""
    if choice.tells:
        yield f"cpus: {encode_idset(mine)}"
        for rank, cpus in zip(ranks, bound, strict=True):
            if choice.is_per_task and cpus is not None:
                yield f"task {rank}: cpus: {encode_idset(cpus)}"


def bindings(choice: Choice, node: Node, cores: Sequence[Cpus], ntasks: int) -> list[Cpus | None]:
    """For each task the processors that it is bound to, or None if it is not bound.

    ``cores`` are those of this machine. LookupError if it does not have all cores of ``node``: tasks cannot be bound.
    """
    option = choice.option
    if option == "off":
        return [None] * ntasks
    everything = processors(node, cores)
    if option == "per-task":
        return list(distribute([cores[core] for core in ids_of(node.cores)], ntasks))
    if option.startswith("map:"):
        return list(cpu_map(option[4:], ntasks))
    return [everything] * ntasks


def distribute(cores: Sequence[Cpus], ntasks: int) -> list[Cpus]:
    """Cores dealt to tasks in order, as evenly as possible, at least one to each (hwloc_distrib)."""
    total = sum(map(len, cores))
    sets: list[Cpus] = []
    given = 0
    for core in cores:
        weight = len(core)
        chunk = _share(given + weight, ntasks, total) - _share(given, ntasks, total)
        if chunk:
            sets.extend([core] * chunk)
        elif sets:
            sets[-1] |= core
        given += weight
    return sets


def _share(weight: int, ntasks: int, total: int) -> int:
    return (weight * ntasks + total - 1) // total


def cpu_map(text: str, ntasks: int) -> list[Cpus]:
    """The sets in a list with semicolons, in any of hwloc's notations; if there are more tasks, they repeat."""
    sets = [_cpu_set(part) for part in text.split(";") if part]
    if not sets or not all(sets):
        raise ShellFailure(f"cpuset {text} contains no cores or is invalid", component="cpu-affinity")
    return [sets[index % len(sets)] for index in range(ntasks)]


def _cpu_set(text: str) -> Cpus:
    try:
        if not text.startswith("0x"):
            return frozenset(decode_idset(text))
        mask = 0
        for word in text.split(","):
            mask = mask << 32 | int(word, 16)
        return frozenset(ids_of(mask))
    except (ProtocolError, ValueError):
        return frozenset()


def gpu_environ(options: dict[str, Any], node: Node, local_id: int, ntasks: int) -> dict[str, str]:
    """The variables from which a task's libraries learn which gpus it has."""
    option = options.get("gpu-affinity", "on")
    if option == "off":
        return {}
    gpus = ids_of(node.gpus)
    visible = ",".join(map(str, gpus)) or "-1"
    if option == "per-task":
        each = len(gpus) // ntasks
        visible = ",".join(map(str, gpus[local_id * each : (local_id + 1) * each]))
    elif isinstance(option, str) and option.startswith("map:"):
        visible = ",".join(map(str, sorted(cpu_map(option[4:], ntasks)[local_id])))
    return {"CUDA_VISIBLE_DEVICES": visible}
