"""The pseudo-terminal of a task, and the clients that are attached to it (flux-core's libterminus).

A client attaches by a streaming request ``{type: "attach", mode: "rw"|"ro"|"wo", winsize: {rows, cols}}``, which is
answered by ``{type: "attach"}``, by ``{type: "data", data, encoding?}`` for everything that the task writes, and at
the end by ``{type: "exit", message, status}``. It goes on with requests of the types ``data``, ``resize`` and
``detach``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.broker.exec.options import ShellFailure
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.terminus import decode_data, encode_data
from pytest_flux.reactor.pipe import PipeWriter

if TYPE_CHECKING:
    from pytest_flux.broker.service import Request
    from pytest_flux.reactor.reactor import Reactor

SESSION = "terminus.0"
"""The only terminal that clients can attach to: that of the first task."""

_CHUNK = 4096
_SIZE = (25, 80)
_MODES = {"rw": (True, True), "ro": (True, False), "wo": (False, True)}


class TerminalOptions(NamedTuple):
    """The ``pty`` option.

    ``ranks`` are the tasks that have a terminal, None for all. ``capture`` puts what they write into the job's
    output. ``interactive`` lets the first task wait for a client.
    """

    ranks: frozenset[int] | None
    capture: bool
    interactive: bool

    def covers(self, rank: int) -> bool:
        """Whether a task has a terminal."""
        return self.ranks is None or rank in self.ranks


def terminal_options(options: dict[str, Any]) -> TerminalOptions | None:
    """Read the option. ShellFailure if it is wrong."""
    value = options.get("pty")
    if value is None:
        return None
    if not isinstance(value, dict):
        return TerminalOptions(None, capture=True, interactive=False)
    unknown = [name for name in value if name not in ("ranks", "capture", "interactive")]
    if unknown:
        text = f"{len(unknown)} object item(s) left unpacked: {', '.join(unknown)}"
        raise ShellFailure(f"invalid shell pty option: {text}", component="pty")
    interactive = bool(value.get("interactive", 0))
    ranks = value.get("ranks", 0 if interactive else "all")
    try:
        chosen = None if ranks == "all" else frozenset(decode_idset(str(ranks)))
    except ProtocolError:
        raise ShellFailure(f"invalid shell pty option: ranks={ranks}", component="pty") from None
    if chosen is not None and interactive:
        chosen |= {0}
    return TerminalOptions(chosen, bool(value.get("capture", not interactive)), interactive)


class _Client:
    def __init__(self, request: Request, *, reads: bool, writes: bool) -> None:
        self.request = request
        self.reads = reads
        self.writes = writes

    def leave(self, message: str, status: int) -> None:
        self.request.respond({"type": "exit", "message": message, "status": status})
        self.request.finish()


class Terminal:
    """One terminal. ``captured`` gets what the task writes.

    ``changed`` is called when everything was read, and again when the terminal is closed: when the task has ended too
    and, if the terminal ``awaits_client``, a client has seen it.
    """

    def __init__(
        self,
        reactor: Reactor,
        changed: Callable[[], None],
        captured: Callable[[bytes], None] | None = None,
        *,
        awaits_client: bool = False,
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        self._captured = captured
        self._awaits_client = awaits_client
        self._clients: dict[str, _Client] = {}
        self._status: int | None = None
        self._is_paused = False
        self._at_end = False
        self._leader, self._follower = os.openpty()
        os.set_blocking(self._leader, False)
        self.path = os.ttyname(self._follower)
        self._set_size(*_SIZE)
        self._writer: PipeWriter | None = PipeWriter(reactor, os.dup(self._leader))

    @property
    def is_open(self) -> bool:
        """Whether more may come, or a client has something to hear."""
        return self._leader >= 0

    @property
    def is_capturing(self) -> bool:
        """Whether more may come into the job's output."""
        return self.is_open and self._captured is not None and not self._at_end

    def forsake(self) -> None:
        """Stop waiting for a client."""
        self._awaits_client = False
        if self._status is not None:
            self._at_end = self._at_end or self._captured is None
        self._check_end()

    def started(self) -> None:
        """The task has it open."""
        os.close(self._follower)
        self._follower = -1
        self._watch()

    def exited(self, status: int) -> None:
        """The task has ended."""
        self._status = status
        self._check_end()

    def pause(self, paused: bool) -> None:
        """Leave what the task writes unread, or read on."""
        self._is_paused = paused
        self._watch()

    def close(self) -> None:
        """Close the terminal and tell its clients."""
        if self._leader < 0:
            return
        for client in self._clients.values():
            client.leave("session exiting", self._status or 0)
        self._clients.clear()
        self._reactor.on_readable(self._leader, None)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for descriptor in (self._leader, self._follower):
            if descriptor >= 0:
                os.close(descriptor)
        self._leader = self._follower = -1

    # -- what the task writes

    def _watch(self) -> None:
        if self._leader < 0 or self._follower >= 0:
            return
        wanted = self._captured is not None or any(client.reads for client in self._clients.values())
        reads = wanted and not self._is_paused and not self._at_end
        self._reactor.on_readable(self._leader, self._readable if reads else None)

    def _readable(self) -> None:
        try:
            data = os.read(self._leader, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            # EIO: no process has the other end open.
            data = b""
        if not data:
            self._at_end = True
            self._watch()
            self._changed()
            self._check_end()
            return
        if self._captured is not None:
            self._captured(data)
        answer = encode_data(data)
        for client in self._clients.values():
            if client.reads:
                client.request.respond(answer)

    def _check_end(self) -> None:
        if self.is_open and self._status is not None and self._at_end and not self._awaits_client:
            self.close()
            self._changed()

    # -- clients

    def receive(self, request: Request) -> None:
        """Carry out a request of a client. FluxError or ProtocolError if it is refused."""
        if not self.is_open:
            raise FluxError(errno.ENOSYS)
        kind = request.field("type", str)
        client = self._clients.get(request.sender)
        if kind == "attach":
            if client is not None:
                raise FluxError(errno.EEXIST)
            self._attach(request)
            return
        if client is None:
            raise FluxError(errno.ENOENT)
        if kind == "data":
            if client.writes and self._writer is not None:
                self._writer.write(decode_data(request.json()))
        elif kind == "resize":
            self._resize(request)
        elif kind == "detach":
            self.detach(request.sender)
        else:
            raise FluxError(errno.ENOSYS)
        request.respond()

    def detach(self, sender: str) -> None:
        """A client leaves, or is gone."""
        client = self._clients.pop(sender, None)
        if client is not None:
            client.leave("Client requested detach", 0)
            self._watch()

    def _attach(self, request: Request) -> None:
        mode = request.field("mode", str)
        if mode not in _MODES:
            raise FluxError(errno.EPROTO)
        reads, writes = _MODES[mode]
        if reads and writes:
            self._resize(request)
        self._clients[request.sender] = _Client(request, reads=reads, writes=writes)
        self._awaits_client = self._awaits_client and not reads
        request.respond({"type": "attach"})
        self._watch()
        self._check_end()

    def _resize(self, request: Request) -> None:
        size = request.field("winsize", dict)
        numbers = [size.get(name) for name in ("rows", "cols")]
        rows, columns = (number if type(number) is int else 0 for number in numbers)
        if not (0 < rows < 1 << 16 and 0 < columns < 1 << 16):
            raise FluxError(errno.EINVAL)
        self._set_size(rows, columns)

    def _set_size(self, rows: int, columns: int) -> None:
        with contextlib.suppress(OSError):
            # The kernel signals the processes in the foreground (SIGWINCH).
            fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
