"""Options of the job shell, checked: ``attributes.system.shell.options`` of a jobspec (flux-shell-options(7))."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_unpack import kind_of, unpack

OUTPUT_LIMIT = 1 << 30
"""How many bytes of one stream of a job the KVS takes (flux-core's SINGLEUSER_OUTPUT_LIMIT)."""

INPUT_LIMIT = 10 << 20

_DEFAULT_EXIT_TIMEOUT = 30.0
_FLUX_SHELL_ONLY = ("initrc", "userrc", "stop-tasks-in-exec", "stage-in")
_JSON_NAMES: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "real",
    bool: "true",
    dict: "object",
    list: "array",
}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


FATAL, ERROR, WARNING, NOTICE, DEBUG = 0, 3, 4, 5, 6
"""Levels of a shell's log messages (RFC 24)."""

Message = tuple[int, str, str]
"""A level, a text, and the component of the shell that has written it, or ""."""


class ShellFailure(Exception):
    """A shell cannot go on. The text goes into the job's output, and into the note of the exception that follows.

    ``code`` is the shell's exit code. ``wait_status`` is that of the task at fault, if there is one. ``messages`` are
    logged before.
    """

    def __init__(
        self,
        text: str,
        code: int = 1,
        *,
        component: str = "",
        wait_status: int | None = None,
        messages: Sequence[Message] = (),
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.component = component
        self.wait_status = wait_status
        self.messages = messages


def plugin_failure(
    plugin: str, *messages: Message, reason: str = "shell_init: No such file or directory"
) -> ShellFailure:
    """What flux-core's shell says if one of its plugins cannot be initialized."""
    return ShellFailure(reason, messages=(*messages, (ERROR, f"plugin '{plugin}': shell.init failed", "")))


def expect(value: object, kind: type, plugin: str, *messages: Message) -> None:
    """Refuse a value of another type, in the words of flux-core and jansson. ShellFailure."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        text = f"shell_getopt: unpack error: Expected {_JSON_NAMES[kind]}, got {_JSON_NAMES.get(type(value), 'null')}"
        raise plugin_failure(plugin, (ERROR, text, ""), *messages)


def failure_of(error: Exception) -> ShellFailure:
    """The failure of a shell that an exception amounts to.

    A jobspec may have any value at any place. What no check has found shows as some exception where the value is
    used; it must end that job, and nothing else.
    """
    if isinstance(error, ShellFailure):
        return error
    return ShellFailure(str(error) if isinstance(error, ProtocolError) else f"error parsing jobspec: {error!r}")


class OutputOptions(NamedTuple):
    """Where a stream goes: ``path`` is the template of a file's path, or None for the KVS."""

    path: str | None
    label: bool
    by_line: bool
    append: bool


class SignalOptions(NamedTuple):
    """The signal that a job gets ``timeleft`` seconds before its time is over."""

    signum: int
    timeleft: float


def shell_options(jobspec: dict[str, Any]) -> dict[str, Any]:
    """The options of a jobspec, not checked."""
    shell = jobspec["attributes"].get("system", {}).get("shell")
    options = shell.get("options") if isinstance(shell, dict) else None
    return options if isinstance(options, dict) else {}


def check_options(options: dict[str, Any], size: int) -> list[Message]:
    """Refuse what only flux-core's shell can do, and what makes no sense, with ShellFailure.

    ``size`` is the number of shells. The result are messages to log.
    """
    for name in _FLUX_SHELL_ONLY:
        if is_set(options, name):
            raise ShellFailure(f"{name}: this option needs flux-core: embedded brokers have no job shell to extend")
    if is_set(options, "hwloc") and nested(options, "hwloc", "xmlfile") not in (None, 0):
        raise ShellFailure("hwloc.xmlfile: this option needs flux-core: embedded brokers do not have hwloc")
    if options.get("mpi") == "spectrum":
        raise ShellFailure("mpi=spectrum: this option needs flux-core: embedded brokers do not have its MPI plugins")
    for name in ("verbose", "nosetpgrp"):
        value = options.get(name, 0)
        if not isinstance(value, int):
            text = f"shell_getopt: unpack error: Expected integer, got {_JSON_NAMES.get(type(value), 'null')}"
            raise ShellFailure(f"failed to parse attributes.system.shell.{name}", messages=[(ERROR, text, "")])
    _check_input(options)
    output_limit(options)
    timeout = options.get("rexec-shutdown-timeout")
    if timeout is not None and _seconds(timeout) is None:
        text = f"failed to parse rexec-shutdown-timeout: {os.strerror(errno.EINVAL)}"
        raise plugin_failure("rexec", (ERROR, text, "rexec"), reason="shell_init")
    return _check_pmi(options, size)


def _check_input(options: dict[str, Any]) -> None:
    kind = nested(options, "input", "stdin", "type")
    if kind is not None:
        expect(kind, str, "input.service")
        if kind not in ("service", "file"):
            raise plugin_failure("input.service", (ERROR, f"input.stdin.type={kind} invalid", "input.service"))
    input_limit(options)


def _check_pmi(options: dict[str, Any], size: int) -> list[Message]:
    if not isinstance(options.get("pmi", ""), str):
        raise plugin_failure("pmi-simple", (ERROR, "pmi shell option must be a string", "pmi-simple"))
    pmi = options.get("pmi-simple")
    if not isinstance(pmi, dict):
        return []
    try:
        unpack(pmi, {"kvs": str, "exchange": dict, "nomap": int})
        unpack(pmi.get("exchange", {}), {"k": int})
    except ProtocolError as error:
        raise plugin_failure("pmi-simple", (ERROR, f"option error: {error}", "pmi-simple")) from None
    fanout = nested(pmi, "exchange", "k")
    if isinstance(fanout, int) and fanout > size:
        return [(WARNING, f"requested exchange fanout too large, using k={size}", "pmi-simple")]
    return []


def is_set(options: dict[str, Any], name: str) -> bool:
    """Whether an option is there and not 0."""
    return options.get(name, 0) not in (0, None, False)


def exit_timeout(options: dict[str, Any]) -> float | None:
    """For how many seconds tasks may run on once the first one has ended; None is for ever."""
    value = options.get("exit-timeout", _DEFAULT_EXIT_TIMEOUT)
    if isinstance(value, str) and value.lower() == "none":
        return None
    seconds = _seconds(value)
    if seconds is None:
        raise ShellFailure("exit-timeout is not a valid Flux Standard Duration", component="task-exit")
    return None if seconds == float("inf") else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ProtocolError:
            return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return None


def signal_options(options: dict[str, Any]) -> SignalOptions | None:
    """The ``signal`` option: by default USR1, a minute before the end."""
    import signal

    value = options.get("signal", 0)
    if value == 0:
        return None
    signum: object = signal.SIGUSR1.value
    timeleft: object = 60.0
    if isinstance(value, dict):
        signum, timeleft = value.get("signum", signum), value.get("timeleft", timeleft)
    elif not isinstance(value, int):
        raise ShellFailure("error in shell `signal' option", component="signal")
    if not isinstance(signum, int) or isinstance(signum, bool):
        text = f"error in shell `signal' option: Expected integer, got {kind_of(signum)}"
        raise ShellFailure(text, component="signal")
    seconds = _seconds(timeleft)
    if seconds is None or signum not in signal.valid_signals():
        raise ShellFailure(f"signal.timeleft={timeleft} is invalid", component="signal")
    return SignalOptions(signum, seconds) if seconds > 0 else None


def output_options(options: dict[str, Any]) -> tuple[OutputOptions, OutputOptions]:
    """The options of standard output and of standard error, which is like the former but unbuffered."""
    output = options.get("output")
    output = output if isinstance(output, dict) else {}
    append = output.get("mode") == "append"
    out = _stream_options("stdout", output.get("stdout"), OutputOptions(None, False, True, append))
    err = _stream_options("stderr", output.get("stderr"), out._replace(by_line=False))
    return out, err


def _stream_options(stream: str, value: object, default: OutputOptions) -> OutputOptions:
    if not isinstance(value, dict):
        return default
    path, label, buffer = value.get("path"), value.get("label"), value.get("buffer")
    kind = buffer.get("type") if isinstance(buffer, dict) else None
    for text in (path, value.get("type"), kind):
        if text is not None:
            expect(text, str, "output", (ERROR, f"failed to read {stream} output options", "output.config"))
    chosen = default._replace(
        path=path if path is not None else default.path,
        label=bool(label) if label is not None else default.label,
        by_line=str(kind).lower() != "none" if kind is not None else default.by_line,
    )
    return chosen._replace(path=None) if value.get("type") == "kvs" else chosen


def output_limit(options: dict[str, Any]) -> int:
    """How many bytes of each stream the KVS takes. ShellFailure."""
    value = nested(options, "output", "limit")
    size = OUTPUT_LIMIT if value is None else _size(value)
    if size is None:
        raise plugin_failure("output", (NOTICE, f"Invalid KVS output.limit={value}", "output.kvs"))
    return size


def input_limit(options: dict[str, Any]) -> tuple[int, str]:
    """How many bytes of input the KVS takes, and the text of that. ShellFailure."""
    value = nested(options, "input", "limit")
    if value is None:
        return INPUT_LIMIT, "10M"
    size = _size(value)
    if size is None:
        raise plugin_failure(
            "input.service",
            (NOTICE, f"Invalid KVS input.limit={value}", "input.util"),
            (ERROR, "failed to initialize input ctx", "input.util"),
        )
    return size, str(value)


def _size(value: object) -> int | None:
    """A number of bytes, from a number or a text such as ``10M``."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= OUTPUT_LIMIT:
        return value
    text = str(value).lower()
    number, unit = (text[:-1], text[-1]) if text and not text[-1].isdigit() else (text, "")
    if number.isdigit() and unit in _UNITS and 0 < int(number) * _UNITS[unit] <= OUTPUT_LIMIT:
        return int(number) * _UNITS[unit]
    return None


def nested(options: dict[str, Any], *names: str) -> object:
    """The value at the end of a path through objects, or None."""
    value: Any = options
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def reads_file(options: dict[str, Any]) -> bool:
    """Whether the tasks read a file instead of what clients send."""
    return nested(options, "input", "stdin", "type") == "file"
