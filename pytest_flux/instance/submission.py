"""Make a jobspec (RFC 14) from the keywords of `flux submit` and of flux-core's ``JobspecV1.from_command``.

The two call some things differently: ``-n``, ``ntasks`` and ``num_tasks`` are one thing. We take the names of
``from_command`` and the long options of the command line, with underscores. A keyword that neither has is an error
with the nearest one, because a jobspec with a forgotten limit runs, and does something else.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from pytest_flux.client.jobspec import from_command, set_attribute, set_option
from pytest_flux.instance.settings import Path, nearest
from pytest_flux.protocol.job_state import URGENCY_DEFAULT

Command = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

FLAGS = {"debug": 2, "waitable": 4, "novalidate": 8}
"""Flags of a submission (flux-core's job.h)."""


class SubmitKeywords(TypedDict, total=False):
    """The keywords of :meth:`FluxInstance.submit`, for type checkers."""

    num_tasks: int
    tasks: int
    nodes: int
    num_nodes: int
    cores_per_task: int
    gpus_per_task: int
    exclusive: bool
    time_limit: float | str | datetime.timedelta
    duration: float | str | datetime.timedelta
    env: Mapping[str, str]
    environment: Mapping[str, str]
    cwd: Path
    name: str
    job_name: str
    queue: str
    bank: str
    input: Path
    output: Path
    error: Path
    stdin: Path
    stdout: Path
    stderr: Path
    label_io: bool
    label: bool
    unbuffered: bool
    dependency: str | Sequence[str]
    begin_time: datetime.datetime | float
    requires: str
    attributes: Mapping[str, object]
    shell_options: Mapping[str, object]
    urgency: int
    flags: str | Sequence[str]


# The name in client.jobspec of each keyword that has one there.
_SAME = {
    "num_tasks": "tasks",
    "nodes": "nodes",
    "num_nodes": "nodes",
    "cores_per_task": "cores_per_task",
    "gpus_per_task": "gpus_per_task",
    "exclusive": "exclusive",
    "time_limit": "duration",
    "duration": "duration",
    "environment": "environment",
    "cwd": "cwd",
    "name": "name",
    "job_name": "name",
    "queue": "queue",
    "bank": "bank",
    "input": "stdin",
    "output": "stdout",
    "error": "stderr",
    "label_io": "label",
    "unbuffered": "unbuffered",
}
# Names of client.jobspec itself. They are not suggested.
_OLD = {name: name for name in ("tasks", "stdin", "stdout", "stderr", "label")}
_OTHER = ("env", "dependency", "begin_time", "requires", "attributes", "shell_options", "urgency", "flags")
_NUMBERS = ("tasks", "nodes", "cores_per_task", "gpus_per_task", "urgency")
_TEXTS = ("name", "queue", "bank", "requires")
_TRUTHS = ("exclusive", "label", "unbuffered")
_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(_NUMBERS, (int, "an integer")),
    **dict.fromkeys(_TEXTS, (str, "text")),
    **dict.fromkeys(_TRUTHS, (bool, "true or false")),
}
_PATHS = ("cwd", "stdin", "stdout", "stderr")


class Submission:
    """A jobspec to submit, with its ``urgency`` and ``flags``. Raises TypeError and ValueError for wrong keywords."""

    def __init__(self, command: Command | Mapping[str, Any], how: Mapping[str, Any]) -> None:
        for name in how:
            if name not in _SAME and name not in _OLD and name not in _OTHER:
                raise TypeError(f"submit(): unknown keyword {name!r}: {nearest(name, (*_SAME, *_OTHER))}")
        self.urgency: int = _checked("urgency", "urgency", how.get("urgency", URGENCY_DEFAULT))
        self.flags = _flags(how.get("flags", ()))
        if isinstance(command, Mapping):
            extra = sorted(how.keys() - {"urgency", "flags"})
            if extra:
                raise TypeError(f"submit(): {extra[0]}=: a complete jobspec takes only urgency= and flags=")
            self.jobspec = dict(command)
        else:
            self.jobspec = _jobspec(_argv(command), how)


def _argv(command: Command) -> list[str]:
    if isinstance(command, str):
        # As in run(), and as subprocess does it.
        return ["/bin/sh", "-c", command]
    words = [command] if isinstance(command, os.PathLike) else list(command)
    for word in words:
        if not isinstance(word, (str, os.PathLike)):
            raise TypeError(f"submit(): {word!r} in the command: text or a path is expected")
    if not words:
        raise ValueError("submit(): the command is empty")
    return [os.fspath(word) for word in words]


def _jobspec(argv: list[str], how: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in how.items():
        known = _SAME.get(name) or _OLD.get(name)
        if known is None:
            continue
        if known in values:
            raise TypeError(f"submit(): {name}=: two keywords for one thing ({known})")
        values[known] = _checked(name, known, value)
    if "env" in how:
        if "environment" in values:
            raise TypeError("submit(): env= adds to the environment, environment= replaces it: one of the two")
        values["environment"] = {**os.environ, **_environment("env", how["env"])}
    if "cwd" not in values:
        values["cwd"] = _working_directory()
    jobspec = from_command(argv, **values)
    for path, value in how.get("attributes", {}).items():
        set_attribute(jobspec, path, value)
    for path, value in how.get("shell_options", {}).items():
        set_option(jobspec, path, value)
    dependencies = [_dependency(text) for text in _listed(how.get("dependency", ()))]
    if "begin_time" in how:
        dependencies.append({"scheme": "begin-time", "value": str(_timestamp(how["begin_time"]))})
    if dependencies:
        set_attribute(jobspec, "dependencies", dependencies)
    if "requires" in how:
        from pytest_flux.protocol.constraint_syntax import parse_constraint

        set_attribute(jobspec, "constraints", parse_constraint(_checked("requires", "requires", how["requires"])))
    return jobspec


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        text = "submit(): the working directory of this process has been deleted: give cwd="
        raise FileNotFoundError(text) from None


def _checked(name: str, known: str, value: Any) -> Any:  # noqa: ANN401 - of any type
    if known in _KINDS:
        kind, words = _KINDS[known]
        # A bool is an int to Python.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise TypeError(f"submit(): {name}={value!r}: {words} is expected")
    if known == "environment":
        return _environment(name, value)
    if known == "duration" and isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return os.fspath(value) if known in _PATHS else value


def _timestamp(moment: datetime.datetime | float) -> float:
    if isinstance(moment, datetime.datetime):
        if moment.tzinfo is None:
            raise ValueError(f"submit(): begin_time={moment}: a datetime with a time zone is expected")
        return moment.timestamp()
    return float(moment)


def _environment(name: str, values: Any) -> Mapping[str, str]:  # noqa: ANN401 - of any type
    if not isinstance(values, Mapping):
        raise TypeError(f"submit(): {name}={values!r}: a mapping is expected")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"submit(): {name}={{{key!r}: {value!r}}}: text is expected")
    return values


def _dependency(text: str) -> dict[str, str]:
    scheme, colon, value = text.partition(":")
    if not colon or not value:
        raise ValueError(f"submit(): dependency={text!r}: SCHEME:VALUE is expected, as in 'afterok:ƒ2oLkTLb'")
    return {"scheme": scheme, "value": value}


def _flags(flags: str | Sequence[str]) -> int:
    result = 0
    for name in _listed(flags):
        if name not in FLAGS:
            raise ValueError(f"submit(): flags={name!r}: {nearest(name, tuple(FLAGS))}")
        result |= FLAGS[name]
    return result


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return value.split(",") if isinstance(value, str) else value
