"""What a job that we are attached to writes, on our stdout and stderr."""

from __future__ import annotations

import sys

from pytest_flux.protocol.ioencode import decode_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.attach_pty import PtyClient
    from pytest_flux.protocol.eventlog import Event

LEVELS = ("FATAL", "FATAL", "FATAL", "ERROR", " WARN", "", "DEBUG", "TRACE")
"""How messages of the job shell are marked, by level (RFC 24)."""


class AttachOptions:
    """How to be attached; ``name`` is the job's id as the user gave it, ``tail`` the lines of old output to print."""

    __slots__ = (
        *("label", "name", "quiet", "read_only", "show_events", "show_exec", "show_status"),
        *("stdin_ranks", "tail", "verbose", "wait_event"),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.label = self.quiet = self.read_only = self.verbose = False
        self.show_events = self.show_exec = self.show_status = False
        self.stdin_ranks = "all"
        self.wait_event = "clean"
        self.tail: int | None = None


class AttachOutput:
    """Prints the events of an output log. ``zero`` is when the job was submitted, from which times count.

    What the first task writes to its terminal is left out, if a ``pty`` shows it already (``is_captured_too``).
    """

    def __init__(self, options: AttachOptions) -> None:
        self.zero: float | None = None
        self._options = options
        self._tail: list[Event] | None = None if options.tail is None else []
        self.pty: PtyClient | None = None
        self.is_captured_too = False

    def since(self, timestamp: float) -> str:
        """A time in the job's life."""
        return f"{timestamp - (self.zero or 0.0):.3f}s"

    def event(self, event: Event) -> None:
        """Print an event, or keep it until it is known to be among the last of the old ones."""
        if self._tail is not None and event["name"] in ("data", "log"):
            if not event.get("context", {}).get("eof"):
                self._tail.append(event)
        else:
            self._print(event)

    def old_is_over(self) -> None:
        """What was there when we came has been told."""
        if self._tail is not None:
            events, self._tail = self._tail, None
            for event in events[max(len(events) - (self._options.tail or 0), 0) :]:
                self._print(event)

    def _print(self, event: Event) -> None:
        name, context = event["name"], event.get("context", {})
        if name == "data":
            io = decode_io(context)
            if io.rank == "0" and self.is_captured_too and self.pty is not None and self.pty.attached:
                return
            stream = sys.stdout if io.stream == "stdout" else sys.stderr
            if io.data:
                stream.flush()
                stream.buffer.write(f"{io.rank}: ".encode() + io.data if self._options.label else io.data)
                stream.buffer.flush()
        elif name == "redirect" and not self._options.quiet:
            target = f" to {context['path']}" if "path" in context else ""
            sys.stderr.write(f"{context['rank']}: {context['stream']} redirected{target}\n")
        elif name == "log" and not self._options.quiet:
            sys.stderr.write(self._format_log(event["timestamp"], context))

    def _format_log(self, timestamp: float, context: dict[str, Any]) -> str:
        rank = context.get("rank", -1)
        origin = f"flux-shell[{rank}]" if rank >= 0 else "flux-shell"
        place = ""
        if self._options.verbose and context.get("file"):
            place = context["file"] + (f":{context['line']}" if context.get("line", -1) > 0 else "")
        parts = [self.since(timestamp), origin, LEVELS[context["level"]], context.get("component") or "", place]
        return ": ".join([*(part for part in parts if part), context["message"]]) + "\n"
