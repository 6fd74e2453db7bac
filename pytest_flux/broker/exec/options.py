"""Options of the job shell, checked: ``attributes.system.shell.options`` of a jobspec (flux-shell-options(7))."""

from __future__ import annotations

from typing import Any, NamedTuple

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.json_unpack import kind_of

OUTPUT_LIMIT = 1 << 30
"""How many bytes of one stream of a job the KVS takes (flux-core's SINGLEUSER_OUTPUT_LIMIT)."""

INPUT_LIMIT = 10 << 20

_DEFAULT_EXIT_TIMEOUT = 30.0
_FLUX_SHELL_ONLY = ("initrc", "userrc", "stop-tasks-in-exec")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class ShellFailure(Exception):
    """A shell cannot go on. The text goes into the job's output, and into the note of the exception that follows.

    ``code`` is the shell's exit code. ``wait_status`` is that of the task at fault, if there is one.
    """

    def __init__(self, text: str, code: int = 1, *, component: str = "", wait_status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.component = component
        self.wait_status = wait_status


def failure_of(error: Exception) -> ShellFailure:
    """The failure of a shell that an exception amounts to.

    A jobspec may have any value at any place. What no check has found shows as some exception where the value is
    used; it must end that job, and nothing else.
    """
    return error if isinstance(error, ShellFailure) else ShellFailure(f"error parsing jobspec: {error!r}")


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


def check_options(options: dict[str, Any]) -> None:
    """Refuse what only flux-core's shell can do, with ShellFailure."""
    for name in _FLUX_SHELL_ONLY:
        if is_set(options, name):
            raise ShellFailure(f"{name}: this option needs flux-core: embedded brokers have no job shell to extend")


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
    out = _stream_options(output.get("stdout"), OutputOptions(None, False, True, append))
    err = _stream_options(output.get("stderr"), out._replace(by_line=False))
    return out, err


def _stream_options(value: object, default: OutputOptions) -> OutputOptions:
    if not isinstance(value, dict):
        return default
    path, label, buffer = value.get("path"), value.get("label"), value.get("buffer")
    kind = buffer.get("type") if isinstance(buffer, dict) else None
    if path is not None and not isinstance(path, str):
        raise ShellFailure("failed to read output options", component="output.config")
    chosen = default._replace(
        path=path if path is not None else default.path,
        label=bool(label) if label is not None else default.label,
        by_line=str(kind).lower() != "none" if kind is not None else default.by_line,
    )
    return chosen._replace(path=None) if value.get("type") == "kvs" else chosen


def size_option(value: object, default: int) -> int:
    """A number of bytes, or a text such as ``10M``."""
    if value is None:
        return default
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= OUTPUT_LIMIT:
        return value
    text = str(value).lower()
    number, unit = (text[:-1], text[-1]) if text and not text[-1].isdigit() else (text, "")
    if number.isdigit() and unit in _UNITS and 0 < int(number) * _UNITS[unit] <= OUTPUT_LIMIT:
        return int(number) * _UNITS[unit]
    raise ShellFailure(f"Invalid limit={value}")


def nested(options: dict[str, Any], *names: str) -> object:
    """The value at the end of a path through objects, or None."""
    value: Any = options
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def reads_file(options: dict[str, Any]) -> bool:
    """Whether the tasks read a file instead of what clients send."""
    return nested(options, "input", "stdin", "type") == "file"
