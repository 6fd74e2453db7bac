"""What all tasks of a job put out and are sent, up to the limits of what the KVS takes of one job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_flux.broker.exec.guest import Guest
from pytest_flux.broker.exec.options import INPUT_LIMIT, OUTPUT_LIMIT, nested, size_option
from pytest_flux.broker.exec.output import WARNING, cut, event_line

TOO_MUCH_INPUT = (
    "stdin exceeds 10M limit. Try file input (flux submit --input=FILE) or redirect input to your command"
    " to avoid the KVS for large amounts of input"
)


class Streams:
    """``log`` takes level, message and component of what the job is told about it."""

    def __init__(self, guest: Guest, log: Callable[[int, str, str], None]) -> None:
        self._guest = guest
        self._log = log
        self._limit = OUTPUT_LIMIT
        self._sizes: dict[str, int] = {}

    def configure(self, shell_options: dict[str, Any]) -> None:
        """Read the limit from the options. ShellFailure."""
        self._limit = size_option(nested(shell_options, "output", "limit"), OUTPUT_LIMIT)

    def put_out(self, stream: str, size: int, text: str) -> None:
        """Lines for ``guest.output``, with so many bytes of a stream in them."""
        before = self._sizes.get(stream, 0)
        self._sizes[stream] = before + size
        if size and before + size > self._limit:
            if before > self._limit:
                return
            self._log(WARNING, f"{stream} will be truncated, {self._limit} limit exceeded", "output.kvs")
            text = cut(text, self._limit - before)
        self._guest.append("output", text)

    def take_input(self, io: dict[str, Any], size: int) -> bool:
        """RFC 24 data for tasks; False for what is too much."""
        self._sizes["stdin"] = self._sizes.get("stdin", 0) + size
        if self._sizes["stdin"] > INPUT_LIMIT:
            return False
        self._guest.append("input", event_line("data", io))
        return True
