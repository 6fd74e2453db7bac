"""The output of an instance: one file, whose lines can be sorted by writer."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator

from pytest_flux.protocol.idset import encode_idset

LAUNCHER = "launcher and programs"
"""The writer of lines that are not marked with a rank."""

_LAST_LINES = 20
_MOST_WRITERS = 8
# A broker's line on standard error (flux-broker-attributes(7)): APPNAME.SEVERITY[RANK], maybe after a timestamp.
_RANKED = re.compile(r"^(?:<\d+>|\S+ +\d+ [\d:.]+ \S+ \d{4} |\S+T[\d:.]+\S* )?[\w-]+\.\w+\[(\d+)\]: ")

_ERROR = re.compile(r"\b[\w-]+\.(?:emerg|alert|crit|err)\[\d+\]: ")
# broker.info[0]: quorum-full: quorum->run 21.0ms
_TRANSITION = re.compile(r"\[(\d+)\]: [\w-]+: [\w-]+->([\w-]+) [\d.]+\w+$", re.MULTILINE)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class InstanceLog:
    """Standard output and error of all processes of an instance, in a file at ``path``, or in an unnamed one."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        if path is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as we are
        else:
            self._file = open(path, "a+b", buffering=0, opener=_open)  # noqa: SIM115 - as long as we are
        self._final: bytes | None = None

    def fileno(self) -> int:
        """The descriptor to write to."""
        return self._file.fileno()

    def position(self) -> int:
        """The present end of the log, as a start for :meth:`text`."""
        return len(self._final) if self._final is not None else os.fstat(self._file.fileno()).st_size

    def text(self, start: int = 0, end: int | None = None) -> str:
        """The text between two positions."""
        end = self.position() if end is None else end
        if self._final is not None:
            return self._final[start:end].decode(errors="replace")
        return os.pread(self._file.fileno(), max(end - start, 0), start).decode(errors="replace")

    def close(self) -> None:
        """Close the file and keep its content in memory."""
        if self._final is None:
            final = os.pread(self._file.fileno(), self.position(), 0)
            self._file.close()
            self._final = final


def by_writer(text: str) -> dict[str, list[str]]:
    """Sort lines by writer: ``rank N`` in order of ranks, then LAUNCHER."""
    writers: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = _RANKED.match(line)
        writers.setdefault(f"rank {match[1]}" if match else LAUNCHER, []).append(line)
    return {name: writers[name] for name in sorted(writers, key=_order)}


def _order(writer: str) -> tuple[bool, int]:
    return (True, 0) if writer == LAUNCHER else (False, int(writer.rpartition(" ")[2]))


def tail(text: str) -> str:
    """The last lines of each writer, each under a heading; of a large instance, of those that matter most."""
    writers = by_writer(text)
    shown = _most_telling(writers)
    last = {name: "\n".join(lines[-_LAST_LINES:]) for name, lines in writers.items() if name in shown}
    parts = [f"--- {name} ---\n{lines}" for name, lines in last.items()]
    if len(shown) < len(writers):
        parts.append(f"(and the logs of {len(writers) - len(shown)} more ranks)")
    return "\n".join(parts)


def _most_telling(writers: dict[str, list[str]]) -> set[str]:
    """The writers to show: launcher and rank 0 before ranks with errors before other ranks."""

    def order(name: str) -> tuple[bool, bool]:
        return (name not in (LAUNCHER, "rank 0"), not any(_ERROR.search(line) for line in writers[name]))

    return set(sorted(writers, key=order)[:_MOST_WRITERS])


def progress(text: str, size: int) -> str:
    """How far each rank got while the instance started, from the state changes in its log: a line for each state."""
    states: dict[str, list[int]] = {}
    reached = dict(_transitions(text))
    for rank in range(size):
        state = reached.get(rank)
        states.setdefault(f"in state {state}" if state else "not started, or no state logged", []).append(rank)
    return "\n".join(
        f"{'rank' if len(ranks) == 1 else 'ranks'} {encode_idset(ranks)}: {state}" for state, ranks in states.items()
    )


def _transitions(text: str) -> Iterator[tuple[int, str]]:
    """The state machine's changes, as (rank, new state), in their order."""
    for match in _TRANSITION.finditer(text):
        yield int(match[1]), match[2]
