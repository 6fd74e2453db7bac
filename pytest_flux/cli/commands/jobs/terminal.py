"""Connect our terminal to that of a job that has the shell option ``pty.interactive``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from pytest_flux.cli.stdio import write
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.terminus import decode_data, encode_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.client import Flux, Rpc
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

_STDIN = 0
_CHUNK = 4096
_DETACH = b"\x1d"
_KEEPALIVE = 1.0
"""The interval in seconds at which we check that the job's end is still there."""


class PtyClient:
    """Connects the terminals. Calls ``ended`` once, with whether it was attached at all, and the exit code."""

    def __init__(
        self, flux: Flux, reactor: Reactor, topic: str, nodeid: int, ended: Callable[[bool, int], None]
    ) -> None:
        self.attached = False
        self._flux = flux
        self._reactor = reactor
        self._topic = topic
        self._nodeid = nodeid
        self._ended = ended
        self._terminal: list[Any] | None = None
        self._message = "unknown reason"
        self._status = 0
        self._timer: Timer | None = None
        self._is_over = False

    def start(self) -> None:
        """Request the connection. ``Flux.dispatch`` handles the answers."""
        request = {"type": "attach", "mode": "rw", "winsize": _size()}
        self._flux.rpc(self._topic, request, nodeid=self._nodeid, streaming=True).then(self._answered)
        self._flux.flush()

    def stop(self) -> None:
        """Restore our terminal, and stop reading from it."""
        if self.attached:
            with contextlib.suppress(OSError):
                self._reactor.on_readable(_STDIN, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._terminal is not None:
            import termios

            termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._terminal)
            self._terminal = None
            # A full-screen program may have hidden the cursor.
            write(b"\033[?25h")

    # -- from the job

    def _answered(self, rpc: Rpc) -> None:
        while rpc.is_ready() and not self._is_over:
            try:
                answer = rpc.get()
            except FluxError as error:
                known = error.errnum in (errno.ENODATA, errno.ENOSYS)
                text = "No such session" if error.errnum == errno.ENOSYS else os.strerror(error.errnum)
                if error.errnum != errno.ENODATA:
                    self._message, self._status = text if known else error.text or text, 1
                self._end()
                return
            self._take(answer)

    def _take(self, answer: dict[str, Any]) -> None:
        kind = answer.get("type")
        if kind == "attach":
            self._begin()
        elif kind == "data":
            write(decode_data(answer))
        elif kind == "resize":
            self._resize()
        elif kind == "exit":
            self._message, self._status = str(answer.get("message")), int(answer.get("status", 1))

    def _begin(self) -> None:
        self.attached = True
        if os.isatty(_STDIN):
            import termios
            import tty

            self._terminal = termios.tcgetattr(_STDIN)
            tty.setraw(_STDIN, termios.TCSANOW)
        self._reactor.on_signal(signal.SIGWINCH, lambda _: self._resize())
        self._timer = self._reactor.call_later(_KEEPALIVE, self._keep_alive)
        with contextlib.suppress(OSError):
            # epoll refuses regular files, whose content is not meant for a terminal.
            self._reactor.on_readable(_STDIN, self._read)

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self.attached:
            write(f"\033[999H[detached: {self._message}]\033[K\n\r".encode())
        self.stop()
        self._ended(self.attached, 1 if self._status else 0)

    # -- to the job

    def _read(self) -> None:
        try:
            data = os.read(_STDIN, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._reactor.on_readable(_STDIN, None)
        elif data.startswith(_DETACH):
            self._send({"type": "detach"})
        else:
            self._send(encode_data(data))

    def _keep_alive(self) -> None:
        self._timer = self._reactor.call_later(_KEEPALIVE, self._keep_alive)
        self._send(encode_data(b""))

    def _resize(self) -> None:
        self._send({"type": "resize", "winsize": _size()})

    def _send(self, request: dict[str, Any]) -> None:
        self._flux.rpc(self._topic, request, nodeid=self._nodeid).then(self._sent)
        self._flux.flush()

    def _sent(self, rpc: Rpc) -> None:
        try:
            rpc.get()
        except FluxError as error:
            # The job's terminal has ended; its answer to our attachment will say so.
            if not self._is_over and error.errnum not in (errno.ENOSYS, errno.ENOENT):
                self._message, self._status = "error writing to remote pty", 1
                self._end()


def _size() -> dict[str, int]:
    try:
        size = os.get_terminal_size(_STDIN)
    except OSError:
        return {"rows": 24, "cols": 80}
    return {"rows": size.lines or 1, "cols": size.columns or 1}
