"""Make a jobspec from the options of a command line."""

from __future__ import annotations

import os
import sys

from pytest_flux.cli.arguments import json_or_text
from pytest_flux.client import jobspec as make
from pytest_flux.client.job_environment import filter_environment, filter_limits
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.submit.request import Request

    Jobspec = dict[str, Any]

_PER_TASK = ("ntasks", "cores-per-task", "gpus-per-task")
_PER_RESOURCE = ("tasks-per-node", "tasks-per-core", "gpus-per-node", "cores")


def make_jobspec(request: Request) -> Jobspec:
    """Make the jobspec of `flux run`, `submit` and `bulksubmit`. Raises ValueError."""
    if request.has("mock") and not request.command:
        request.command = list(make.MOCK_COMMAND)
    if not request.command:
        raise ValueError("job command and arguments are missing")
    numbers = {name: request.number(name) for name in ("nodes", *_PER_TASK, *_PER_RESOURCE)}
    if numbers["tasks-per-node"] is not None and numbers["tasks-per-core"] is not None:
        raise ValueError("Do not specify both the number of tasks per node and per core")
    for name in ("tasks-per-node", "tasks-per-core"):
        number = numbers[name]
        if number is not None and number < 1:
            raise ValueError(f"--{name} must be >= 1")
    if numbers["gpus-per-node"] and not numbers["nodes"]:
        raise ValueError("--gpus-per-node requires --nodes")
    build = _per_resource if any(numbers[name] is not None for name in _PER_RESOURCE) else _per_task
    jobspec = build(request, numbers)
    apply_options(jobspec, request)
    if request.has("mock"):
        make.set_mock(jobspec, **_mock(request.get("mock") or ""))
    return jobspec


def _mock(text: str) -> dict[str, Any]:
    """The arguments of set_mock that ``--mock`` gives. Raises ValueError."""
    duration, *words = text.split(",")
    how: dict[str, Any] = {"duration": parse_duration(duration)}
    for word in words:
        name, _, value = word.partition("=")
        if name == "exception":
            how[name] = value
        elif name == "status" and value.isdecimal():
            how[name] = int(value)
        else:
            raise ValueError(f"--mock={text}: {word!r}: status=N or exception=init|run is expected")
    return how


def _per_task(request: Request, numbers: dict[str, int | None]) -> Jobspec:
    nodes, tasks, exclusive = numbers["nodes"], numbers["ntasks"], request.has("exclusive")
    if not tasks and nodes:
        tasks, exclusive = nodes, True
    return make.from_command(
        request.command,
        tasks=tasks or 1,
        cores_per_task=numbers["cores-per-task"] or 1,
        gpus_per_task=numbers["gpus-per-task"] or 0,
        nodes=nodes,
        exclusive=exclusive,
        **_attributes(request),
    )


def _per_resource(request: Request, numbers: dict[str, int | None]) -> Jobspec:
    if any(numbers[name] is not None for name in _PER_TASK):
        raise ValueError("Per-resource options can't be used with per-task options. (See --help for details)")
    nodes, cores = numbers["nodes"], numbers["cores"]
    per = next((kind for kind in ("node", "core") if numbers[f"tasks-per-{kind}"] is not None), "")
    return make.per_resource(
        request.command,
        cores=cores,
        nodes=nodes,
        tasks_per=per,
        tasks=numbers[f"tasks-per-{per}"] or 0 if per else 0,
        gpus_per_node=numbers["gpus-per-node"] or 0,
        exclusive=request.has("exclusive") or bool(nodes and cores is None),
        **_attributes(request),
    )


def _attributes(request: Request) -> dict[str, Any]:
    stdin = request.get("input")
    return {
        "cwd": request.get("cwd") or os.getcwd(),
        "name": request.get("job-name"),
        "queue": request.get("queue"),
        "bank": request.get("bank"),
        "stdin": None if stdin is not None and is_idset(stdin) else stdin,
        "stdout": request.get("output"),
        "stderr": request.get("error"),
        "label": request.has("label-io"),
        "unbuffered": request.has("unbuffered"),
        "environment": {},
    }


def is_idset(text: str) -> bool:
    """Return whether the argument of ``--input`` names tasks, not a file."""
    try:
        decode_idset(text)
    except ValueError:
        return False
    return True


def apply_options(jobspec: Jobspec, request: Request) -> None:
    """Apply the options that all kinds of jobs have: environment, limits, dependencies, ... Raises ValueError."""
    environment, templates = filter_environment(request.all("env"), os.environ)
    jobspec["attributes"]["system"]["environment"] = environment
    if templates:
        make.set_option(jobspec, "env-expand", templates)
    limits = filter_limits(request.all("rlimit"))
    if limits:
        make.set_option(jobspec, "rlimit", limits)
    if request.get("signal"):
        make.set_option(jobspec, "signal", _signal(request.get("signal") or ""))
    taskmap = request.get("taskmap")
    if taskmap is not None:
        make.set_option(jobspec, "taskmap", _uri(taskmap, "taskmap"))
    if request.all("dependency"):
        entries = [_uri(uri, "dependency") for uri in request.all("dependency")]
        make.set_attribute(jobspec, "dependencies", entries)
    if request.all("requires"):
        make.set_attribute(jobspec, "constraints", _constraint(" ".join(request.all("requires"))))
    for setting in request.all("setopt"):
        make.set_option(jobspec, *_key_and_value("--setopt", setting))
    limit = request.get("time-limit")
    if limit is not None:
        make.set_duration(jobspec, _time_limit(limit))
    for setting in request.all("setattr"):
        key, value = _key_and_value("--setattr", setting)
        make.set_attribute(jobspec, "attributes" + key if key.startswith(".") else key, value)
    for argument in request.all("add-file"):
        _add_file(jobspec, argument)


def _time_limit(text: str) -> float:
    """Parse a time limit, in minutes if it has no unit."""
    try:
        return float(text) * 60
    except ValueError:
        return parse_fsd(text)


def parse_fsd(text: str) -> float:
    """Parse a duration. Raises ValueError with the text of Flux's Python programs."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = float("inf")
    if seconds == float("inf"):
        raise ValueError("invalid Flux standard duration")
    return seconds


def _signal(text: str) -> dict[str, Any]:
    from pytest_flux.cli.commands.jobs.common import parse_signal

    name, _, time = text.partition("@")
    try:
        number = parse_signal(name or "USR1")
        left = _number(time or "60")
    except ValueError as error:
        raise ValueError(f"--signal={text}: {error}") from None
    return {"signum": number, "timeleft": left}


def _number(text: str) -> float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return parse_fsd(text)


def _uri(text: str, name: str) -> dict[str, Any]:
    """Parse ``SCHEME[:VALUE][?KEY=VALUE&...]`` (RFC 26)."""
    scheme, _, rest = text.partition(":")
    value, _, query = rest.partition("?")
    if (
        not scheme
        or not scheme[0].isalpha()
        or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()
    ):
        raise ValueError(f'Invalid {name} URI "{text if ":" in text else text + ":"}"')
    if name == "dependency" and scheme == "after":
        sys.stderr.write("dependency scheme 'after' is deprecated, use 'afterstart'\n")
    entry: dict[str, Any] = {"scheme": scheme.lower(), "value": value}
    if query:
        from urllib.parse import parse_qs

        for key, values in parse_qs(query).items():
            numbers = [_try_number(value) for value in values]
            entry[key] = numbers if len(numbers) > 1 else numbers[0]
    return entry


def _try_number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _constraint(text: str) -> dict[str, Any]:
    from pytest_flux.protocol.constraint_syntax import parse_constraint

    try:
        return parse_constraint(text)
    except ValueError as error:
        raise ValueError(f"--requires='{text}': {error}") from None


def _key_and_value(option: str, setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if key.startswith("^"):
        import json

        with open(text) as file:
            try:
                return key.lstrip("^"), json.load(file)
            except ValueError as error:
                raise ValueError(f"{option}: {text}: {error}") from None
    return key, json_or_text(text) if equals else 1


def _add_file(jobspec: Jobspec, argument: str) -> None:
    name, equals, data = argument.replace("\\n", "\n").partition("=")
    if not data:
        if "\n" in name:
            raise ValueError("--add-file: file name missing")
        name, data = os.path.basename(name), name
    base, _, digits = name.partition(":")
    mode = int(digits, 8) if equals and digits and set(digits) <= set("01234567") else 0
    name = base if mode else name
    if "\n" in data:
        make.add_file(jobspec, name, data, mode=mode or 0o600)
        return
    try:
        make.add_path(jobspec, name, data)
    except OSError as error:
        raise ValueError(f"--add-file={argument}: {error}") from None
