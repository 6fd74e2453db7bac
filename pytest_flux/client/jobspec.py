"""Make jobspecs of version 1 (RFC 14, RFC 25) as flux-core's commands make them."""

from __future__ import annotations

import os

from pytest_flux.protocol.duration import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Jobspec = dict[str, Any]


def from_command(
    command: Sequence[str],
    *,
    tasks: int = 1,
    cores_per_task: int = 1,
    gpus_per_task: int = 0,
    nodes: int | None = None,
    exclusive: bool = False,
    **attributes: Any,  # noqa: ANN401
) -> Jobspec:
    """A number of tasks, each with its own cores and GPUs, spread over ``nodes`` if that is given.

    ``attributes`` are those of :func:`with_attributes`. Raises ValueError for numbers that contradict each other.
    """
    if tasks < 1:
        raise ValueError("task count must be a integer >= 1")
    if cores_per_task < 1:
        raise ValueError("cores per task must be an integer >= 1")
    if gpus_per_task < 0:
        raise ValueError("gpus per task must be an integer >= 0")
    if nodes is not None and nodes < 1:
        raise ValueError("node count must be an integer >= 1 (if set)")
    if nodes is not None and nodes > tasks:
        raise ValueError("node count must not be greater than task count")
    _check_exclusive(nodes, exclusive)
    children = _cores_and_gpus(cores_per_task, gpus_per_task)
    count: dict[str, int] = {"per_slot": 1}
    slots = tasks
    if nodes is not None:
        slots = -(-tasks // nodes)
        if tasks % nodes:
            # The slots of the last nodes are not all used.
            count = {"total": tasks}
    return with_attributes(_assemble(command, count, slots, children, nodes, exclusive=exclusive), **attributes)


def per_resource(
    command: Sequence[str],
    *,
    cores: int | None = None,
    nodes: int | None = None,
    tasks_per: str = "",
    tasks: int = 0,
    gpus_per_node: int = 0,
    exclusive: bool = False,
    **attributes: Any,  # noqa: ANN401
) -> Jobspec:
    """Nodes or cores. If ``tasks_per`` is "node" or "core", each of those gets a number of ``tasks``."""
    if cores is not None and cores < 1:
        raise ValueError("ncores must be an integer >= 1")
    if gpus_per_node < 0:
        raise ValueError("gpus_per_node must be an integer >= 0")
    if nodes is not None and nodes < 1:
        raise ValueError("nnodes must be an integer >= 1")
    _check_exclusive(nodes, exclusive)
    slots, size = 1, 1
    if nodes and cores:
        if cores < nodes:
            raise ValueError("number of cores cannot be less than nnodes")
        if cores % nodes:
            raise ValueError("number of cores must be evenly divisible by node count")
        size = cores // nodes
    elif cores:
        slots = cores
    elif not nodes:
        raise ValueError("must specify node or core count with per_resource")
    children = _cores_and_gpus(size, gpus_per_node)
    jobspec = _assemble(command, {"per_slot": 1}, slots, children, nodes, exclusive=exclusive)
    if tasks_per:
        set_option(jobspec, "per-resource", {"type": tasks_per, "count": tasks})
    return with_attributes(jobspec, **attributes)


def nested(
    command: Sequence[str],
    *,
    slots: int = 1,
    cores_per_slot: int = 1,
    broker_options: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    **how: Any,  # noqa: ANN401
) -> Jobspec:
    """An instance of Flux as a job, one broker on each node, with ``command`` as its initial program.

    ``config`` is its configuration; ``how`` are further arguments of :func:`from_command`.
    """
    options = [*broker_options, *([] if config is None else ["-c{{tmpdir}}/conf.json"])]
    command = ["flux", "broker", *options, *command]
    jobspec = from_command(command, tasks=slots, cores_per_task=cores_per_slot, **how)
    set_option(jobspec, "per-resource.type", "node")
    set_option(jobspec, "mpi", "none")
    set_option(jobspec, "exit-timeout", "none")
    if config is not None:
        add_file(jobspec, "conf.json", dict(config))
    return jobspec


def batch(script: str, name: str, arguments: Sequence[str] = (), **how: Any) -> Jobspec:  # noqa: ANN401
    """An instance whose initial program is a script, of which the job carries a copy. Arguments as :func:`nested`."""
    if not script.startswith("#!"):
        raise ValueError(f"{name} does not appear to start with '#!'")
    jobspec = nested(["{{tmpdir}}/script", *arguments], name=name, **how)
    add_file(jobspec, "script", script, mode=0o700)
    return jobspec


def with_attributes(
    jobspec: Jobspec,
    *,
    duration: float | str | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: str | None = None,
    name: str | None = None,
    queue: str | None = None,
    bank: str | None = None,
    stdin: str | None = None,
    stdout: str | None = None,
    stderr: str | None = None,
    label: bool = False,
    unbuffered: bool = False,
) -> Jobspec:
    """Set the attributes that all kinds of jobspec have. Environment and directory are ours unless given.

    ``duration`` is in seconds, or Flux Standard Duration (RFC 23); the streams are paths, which may contain mustache
    templates. Returns the jobspec itself.
    """
    system = jobspec["attributes"]["system"]
    if duration is not None:
        set_duration(jobspec, parse_duration(duration) if isinstance(duration, str) else duration)
    system["environment"] = dict(os.environ if environment is None else environment)
    system["cwd"] = os.getcwd() if cwd is None else cwd
    if name is not None:
        set_attribute(jobspec, "job.name", name)
    for stream, path in (("stdout", stdout), ("stderr", stderr)):
        if path is not None and path not in ("none", "kvs"):
            _redirect(jobspec, "output", stream, path)
            if label:
                set_option(jobspec, f"output.{stream}.label", True)
    if stdin is not None:
        _redirect(jobspec, "input", "stdin", stdin)
    if unbuffered:
        set_option(jobspec, "output.stdout.buffer.type", "none")
        set_option(jobspec, "output.stderr.buffer.type", "none")
        set_option(jobspec, "output.batch-timeout", 0.05)
        set_option(jobspec, "input.batch-timeout", 0.0)
    if queue is not None:
        system["queue"] = queue
    if bank is not None:
        system["bank"] = bank
    return jobspec


def set_duration(jobspec: Jobspec, seconds: float) -> None:
    """Set the time limit; 0 is unlimited. Raises ValueError."""
    if seconds < 0:
        raise ValueError("duration must not be negative")
    if not seconds < float("inf"):
        raise ValueError("duration must be a normal, finite value")
    set_attribute(jobspec, "duration", float(seconds))


def set_attribute(jobspec: Jobspec, path: str, value: object) -> None:
    """Set an attribute: below ``system`` unless the path begins with ``user.``, ``system.`` or ``attributes.``."""
    if not path.startswith(("attributes.", "user.", "system.")):
        path = "system." + path
    target: Any = jobspec if path.startswith("attributes.") else jobspec["attributes"]
    *parents, last = path.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ValueError(f"cannot set {path}: {parent} is not an object")  # noqa: TRY004, the path is wrong
    target[last] = value


def set_option(jobspec: Jobspec, path: str, value: object) -> None:
    """Set an option of the job shell."""
    set_attribute(jobspec, f"system.shell.options.{path}", value)


MOCK_COMMAND = ("mock",)
"""The command of a jobspec whose job runs nothing."""


def set_mock(jobspec: Jobspec, duration: float, *, status: int = 0, exception: str | None = None) -> None:
    """Make the job one that runs nothing and ends after ``duration`` seconds (flux-core's job-exec/testexec.c).

    ``status`` is its exit code. ``exception`` "init" or "run" makes it fail before it starts, or when it does. Raises
    ValueError.
    """
    if not 0 < duration < float("inf"):
        raise ValueError(f"mock: duration {duration!r}: a time of more than 0 seconds is expected")
    if not 0 <= status <= 255:
        raise ValueError(f"mock: status {status!r}: an exit code, from 0 to 255, is expected")
    if exception not in (None, "init", "run"):
        raise ValueError(f"mock: exception {exception!r}: 'init' or 'run' is expected")
    test: dict[str, Any] = {"run_duration": f"{duration:.6f}s", "wait_status": status << 8}
    if exception is not None:
        test["mock_exception"] = exception
    set_attribute(jobspec, "exec.test", test)


def add_file(jobspec: Jobspec, name: str, data: str | dict[str, Any], *, mode: int = 0o600) -> None:
    """Put a file into the job's directory (RFC 37, "Regular Files"): text, or an object as JSON."""
    entry: dict[str, Any] = {"mode": mode | 0o100000, "data": data}
    if isinstance(data, str):
        entry["encoding"] = "utf-8"
    jobspec["attributes"]["system"].setdefault("files", {})[name] = entry


def add_path(jobspec: Jobspec, name: str, path: str) -> None:
    """Put a copy of an existing file into the job's directory. Raises OSError."""
    with open(path, "rb") as file:
        data = file.read()
        mode = os.fstat(file.fileno()).st_mode
    try:
        text, encoding = data.decode(), "utf-8"
    except UnicodeDecodeError:
        from binascii import b2a_base64

        text, encoding = b2a_base64(data, newline=False).decode(), "base64"
    files = jobspec["attributes"]["system"].setdefault("files", {})
    files[name] = {"mode": mode, "size": len(data), "data": text, "encoding": encoding}


def _check_exclusive(nodes: int | None, exclusive: bool) -> None:
    if exclusive and nodes is None:
        raise ValueError("exclusive can only be set with a node count")


def _cores_and_gpus(cores: int, gpus: int) -> list[dict[str, Any]]:
    return [{"type": "core", "count": cores}, *([{"type": "gpu", "count": gpus}] if gpus else [])]


def _redirect(jobspec: Jobspec, kind: str, stream: str, path: str) -> None:
    set_option(jobspec, f"{kind}.{stream}.type", "file")
    set_option(jobspec, f"{kind}.{stream}.path", path)


def _assemble(
    command: Sequence[str],
    count: dict[str, int],
    slots: int,
    children: list[dict[str, Any]],
    nodes: int | None,
    *,
    exclusive: bool,
) -> Jobspec:
    resource: dict[str, Any] = {"type": "slot", "count": slots, "with": children, "label": "task"}
    if nodes is not None:
        whole = {"exclusive": True} if exclusive else {}
        resource = {"type": "node", "count": nodes, **whole, "with": [resource]}
    return {
        "resources": [resource],
        "tasks": [{"command": list(command), "slot": "task", "count": count}],
        "attributes": {"system": {"duration": 0}},
        "version": 1,
    }
