"""Where the output of a shell's tasks goes: into the KVS (RFC 24), by way of the job, or into files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pytest_flux.broker.exec.mustache import Tags, TagsOfTask
from pytest_flux.broker.exec.options import ERROR, OutputOptions, ShellFailure, plugin_failure
from pytest_flux.broker.exec.shell_process import ShellProcess
from pytest_flux.protocol.eventlog import encode_event, make_event
from pytest_flux.protocol.ioencode import decode_io
from pytest_flux.reactor.clock import Clock

_LEVELS = ("FATAL", "FATAL", "FATAL", "ERROR", " WARN", None, "DEBUG", "TRACE")

Send = Callable[[str, int, str], None]
"""Takes the name of a stream, a number of its bytes, and the lines for ``guest.output`` that hold them."""

_quote: Callable[[str], str] = json.encoder.encode_basestring


def data_lines(now: float, stream: str, rank: int, pieces: Sequence[bytes]) -> str:
    """Events of RFC 24, one for each piece, built at once: large output spends most of its time here."""
    head = f'{{"timestamp":{now!r},"name":"data","context":{{"stream":"{stream}","rank":"{rank}",'
    lines = []
    for piece in pieces:
        try:
            lines.append(f'{head}"data":{_quote(piece.decode())}}}}}\n')
        except UnicodeDecodeError:
            import base64

            lines.append(f'{head}"encoding":"base64","data":"{base64.b64encode(piece).decode()}"}}}}\n')
    return "".join(lines)


def cut(lines: str, size: int) -> str:
    """The first of several data events, as many as hold no more than ``size`` bytes together."""
    kept = []
    for line in lines.split("\n")[:-1]:
        size -= len(decode_io(json.loads(line)["context"]).data)
        if size < 0:
            break
        kept.append(line + "\n")
    return "".join(kept)


def end_line(now: float, stream: str, rank: int) -> str:
    """The event that ends a stream."""
    context = f'{{"stream":"{stream}","rank":"{rank}","eof":true}}'
    return f'{{"timestamp":{now!r},"name":"data","context":{context}}}\n'


def event_line(now: float, name: str, context: dict[str, object] | None = None) -> str:
    """An event as a line (RFC 18)."""
    return encode_event(make_event(name, context, timestamp=now))


def log_line(now: float, shell: int, level: int, message: str, component: str = "") -> str:
    """The event of a shell's own message."""
    context: dict[str, object] = {"rank": shell, "level": level, "message": message}
    if component:
        context["component"] = component
    return event_line(now, "log", context)


class _File(NamedTuple):
    """A file of a task's stream. ``label`` puts the task's rank before each line."""

    path: str
    label: bool


class Output:
    """The output of one shell. Relative paths begin at ``directory``, that of the job.

    Files are opened and written by a process of the shell, which ``process`` gives, because either can block. What
    fails there is logged, as in flux-core, and does not end the job (src/shell/output/task.c).
    """

    def __init__(
        self,
        clock: Clock,
        options: tuple[OutputOptions, OutputOptions],
        tags: Tags,
        shell: int,
        directory: str,
        send: Send,
        process: Callable[[], ShellProcess],
    ) -> None:
        self.directory = directory
        self._clock = clock
        self._options = dict(zip(("stdout", "stderr"), options, strict=True))
        self._tags = tags
        self._shell = shell
        self._send = send
        self._process = process
        self._opened: set[str] = set()
        self._failed: set[str] = set()
        self._unwritten = 0
        self._closed: Callable[[], None] | None = None
        self._files: dict[tuple[str, int], _File] = {}

    def by_line(self, stream: str) -> bool:
        """Whether unfinished lines are held back."""
        return self._options[stream].by_line

    def open(
        self, tasks: Sequence[TagsOfTask], done: Callable[[ShellFailure | None], None], *, running: bool
    ) -> None:
        """Open the files of the tasks, then call ``done``, with the failure if one cannot be opened.

        If shells share a file, the first shell empties it while all start, and the others open it when all run. They
        are on one host, so what each appends stays whole.
        """
        wanted: dict[str, int] = {}
        files: dict[tuple[str, int], _File] = {}
        for stream, options in self._options.items():
            if options.path is None or not tasks:
                continue
            own = self._shell == 0 or self._tags.is_per_shell(options.path, tasks[0])
            if own == running:
                continue
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            if own and not options.append:
                flags |= os.O_TRUNC
            for task in tasks:
                path = self._tags.render(options.path, node=self._shell, task=task)
                files[stream, task.rank] = _File(path, options.label)
                wanted.setdefault(path, flags)
        wanted = {path: flags for path, flags in wanted.items() if path not in self._opened}
        left = len(wanted)
        failure: ShellFailure | None = None

        def opened(path: str, _: int, errnum: int) -> None:
            nonlocal left, failure
            left -= 1
            if errnum and failure is None:
                failure = self._cannot_open(path, errnum)
            elif not errnum:
                self._opened.add(path)
            if not left:
                finished()

        def finished() -> None:
            self._files.update({key: file for key, file in files.items() if file.path in self._opened})
            done(failure)

        for path, flags in wanted.items():
            full = os.path.join(self.directory, path)
            self._process().open(full, flags, partial(opened, path))
        if not wanted:
            finished()

    def _cannot_open(self, path: str, errnum: int) -> ShellFailure:
        reason = os.strerror(errnum)
        message = (ERROR, f"open: {path}: {reason}", "output.task")
        return plugin_failure("output", message, reason=f"shell_init: {reason}")

    def redirect(self, ntasks: int, size: int) -> None:
        """Report which streams are in files. Tags that differ from task to task stay in the paths."""
        ranks = f"[0-{ntasks - 1}]" if ntasks > 1 else "0"
        for stream, options in self._options.items():
            if options.path is not None:
                path = self._tags.render(options.path, node=size)
                context: dict[str, object] = {"stream": stream, "rank": ranks, "path": path}
                self._send(stream, 0, event_line(self._clock.time(), "redirect", context))

    def write(self, stream: str, rank: int, pieces: Sequence[bytes]) -> None:
        """Pass on what a task has written, line by line."""
        file = self._files.get((stream, rank))
        if file is None:
            self._send(stream, sum(map(len, pieces)), data_lines(self._clock.time(), stream, rank, pieces))
            return
        label = f"{rank}: ".encode() if file.label else b""

        def written(_: int, errnum: int) -> None:
            # Once for each file: the message may go to a file that cannot be written either.
            if errnum and file.path not in self._failed:
                self._failed.add(file.path)
                self.log(ERROR, f"write {stream} task {rank}: {os.strerror(errnum)}", "output.task")

        self._write(file.path, b"".join(label + piece for piece in pieces), written)

    def _write(self, path: str, data: bytes, written: Callable[[int, int], None]) -> None:
        def answered(pid: int, errnum: int) -> None:
            written(pid, errnum)
            self._unwritten -= 1
            self._check_closed()

        self._unwritten += 1
        self._process().write(os.path.join(self.directory, path), data, answered)

    def end(self, stream: str, rank: int) -> None:
        """Pass on that a task's stream is at its end."""
        if (stream, rank) not in self._files:
            self._send(stream, 0, end_line(self._clock.time(), stream, rank))

    def log(self, level: int, message: str, component: str = "") -> None:
        """Pass on a message of the shell's own: into the file of standard error, if there is one."""
        file = next((file for (stream, _), file in self._files.items() if stream == "stderr"), None)
        if file is not None:
            name = _LEVELS[level] if 0 <= level < len(_LEVELS) else None
            parts = [f"flux-shell[{self._shell}]", name, component or None, message]
            text = ": ".join(part for part in parts if part)
            self._write(file.path, text.encode() + b"\n", lambda *_: None)
            return
        self._send("log", 0, log_line(self._clock.time(), self._shell, level, message, component))

    def close(self, done: Callable[[], None]) -> None:
        """Close the files once everything is written, then call ``done``."""
        if self._opened:
            self._closed = done
            self._check_closed()
        else:
            done()

    def _check_closed(self) -> None:
        # Not before: what fails is logged, maybe to another of the files.
        if self._closed is not None and not self._unwritten:
            done, self._closed = self._closed, None
            self._process().close_files(lambda *_: done())
