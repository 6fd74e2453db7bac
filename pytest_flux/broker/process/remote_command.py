"""The command that a client asks to run (RFC 42)."""

from __future__ import annotations

import errno
import os

from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BUFFER_SIZE = 4 * 1024 * 1024
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Command:
    """A checked command. FluxError EPROTO, with Flux's text, if it breaks RFC 42."""

    __slots__ = ("cmdline", "cwd", "env", "label", "opts")

    def __init__(self, value: dict[str, Any]) -> None:
        cmdline, env, opts = value.get("cmdline"), value.get("env"), value.get("opts")
        if (
            not _is_list_of_strings(cmdline)
            or not _is_dict_of_strings(env)
            or not _is_dict_of_strings(opts)
            or not isinstance(value.get("channels"), list)
            or not isinstance(value.get("cwd", ""), str)
            or not isinstance(value.get("label", ""), str)
        ):
            raise FluxError(errno.EPROTO, "error parsing command string")
        self.cmdline: list[str] = cmdline or []
        self.env: dict[str, str] = env or {}
        self.cwd: str | None = value.get("cwd")
        self.label: str | None = value.get("label")
        self.opts: dict[str, str] = opts or {}

    @property
    def name(self) -> str:
        """Its name in a list of processes: the program, and for ``flux`` the subcommand."""
        return " ".join(self.cmdline[: 2 if self.cmdline[0] == "flux" else 1])

    def is_line_buffered(self, stream: str) -> bool:
        """Whether output is sent line by line, which is the default. FluxError EINVAL for a bad option."""
        option = self.opts.get(f"{stream}_LINE_BUFFER", "true").lower()
        if option not in ("true", "false"):
            raise FluxError(errno.EINVAL, f"error launching process: {os.strerror(errno.EINVAL)}")
        return option == "true"

    def buffer_size(self, stream: str) -> int:
        """How many bytes may be buffered. FluxError EINVAL for a bad option."""
        option = self.opts.get(f"{stream}_BUFSIZE")
        if option is None:
            return _BUFFER_SIZE
        digits = option.rstrip("kKmMgG")
        unit = _UNITS.get(option[len(digits) :].lower())
        if unit is None or not digits.isdigit() or int(digits) == 0:
            raise FluxError(errno.EINVAL, f"error launching process: {os.strerror(errno.EINVAL)}")
        return int(digits) * unit


def _is_list_of_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_dict_of_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
