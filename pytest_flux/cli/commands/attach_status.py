"""The line that tells, on a terminal, what a job that has not started yet is waiting for."""

from __future__ import annotations

import os
import sys
import time

from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.client import Flux, Rpc
    from pytest_flux.protocol.eventlog import Event
    from pytest_flux.reactor.reactor import Reactor, Timer

_WAITING = "waiting for resources"
_MESSAGES = {
    "submit": "submitted",
    "validate": "resolving dependencies",
    "depend": "waiting for priority assignment",
    "priority": _WAITING,
    "alloc": "starting",
    "start": "started",
}
_FIRST_DELAY = 2.0
_QUEUE_INTERVAL = 10.0


class StatusLine:
    """Appears when a job has not started after two seconds, and then every second."""

    def __init__(self, flux: Flux, jobid: int, name: str, reactor: Reactor, dispatch: Callable[[], None]) -> None:
        self._dispatch = dispatch
        self._flux = flux
        self._jobid = jobid
        self._name = name
        self._reactor = reactor
        self._timer: Timer | None = None
        self._shown = False
        self._message = ""
        self._started = time.time()
        self._prologs = 0
        self._queue: str | None = None
        self._queue_stopped = False
        self._asked = 0.0

    def start(self, *, shown: bool, allowed: bool) -> None:
        """Begin, if the line is asked for, or if it is ``allowed`` and everything of ours is a terminal."""
        if os.environ.get("FLUX_ATTACH_NONINTERACTIVE") is not None:
            return
        if shown or (allowed and all(os.isatty(fd) for fd in range(3))):
            self._timer = self._reactor.call_later(0 if shown else _FIRST_DELAY, self._tick)

    def event(self, event: Event) -> None:
        """Something has happened to the job."""
        name = event["name"]
        if name == "submit":
            self._started = event["timestamp"]
        if name in ("prolog-start", "prolog-finish"):
            self._prologs += 1 if name == "prolog-start" else -1
            self._message = "waiting for prolog" if self._prologs else "starting"
        self._message = _MESSAGES.get(name, self._message)
        self._draw()
        if name in ("start", "clean"):
            self._end()

    def clear(self) -> None:
        """Make room for a message."""
        if self._shown:
            sys.stderr.write("\r\033[K")

    def _end(self) -> None:
        if self._shown:
            sys.stderr.write("\n")
        self._shown = False
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._shown = True
        self._timer = self._reactor.call_later(1.0, self._tick)
        self._draw()
        sys.stderr.flush()

    def _draw(self) -> None:
        if not self._shown:
            return
        seconds = int(time.time() - self._started)
        message = self._message
        if message == _WAITING:
            self._ask()
            if self._queue_stopped and self._queue:
                message += f" ({self._queue} queue stopped)"
        width = max(self._columns() - 20 - len(self._name.encode()), 0)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        sys.stderr.write(f"\rflux-job: {self._name} {message:<{width}} {clock}\r")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(0).columns
        except OSError:
            return 80

    def _ask(self) -> None:
        """Find out, now and then, whether the job's queue is stopped."""
        now = time.monotonic()
        if self._asked and now - self._asked < _QUEUE_INTERVAL:
            return
        self._asked = now
        if self._queue is None:
            request = {"id": self._jobid, "attrs": ["queue"]}
            self._flux.rpc("job-list.list-id", request).then(self._take_queue)
        else:
            request = {} if self._queue == "default" else {"name": self._queue}
            self._flux.rpc("job-manager.queue-status", request, nodeid=0).then(self._take_status)
        self._reactor.call_soon(self._dispatch)

    def _take_queue(self, rpc: Rpc) -> None:
        try:
            self._queue = rpc.get()["job"].get("queue", "default")
        except FluxError:
            return
        self._asked = 0.0

    def _take_status(self, rpc: Rpc) -> None:
        try:
            self._queue_stopped = not rpc.get()["start"]
        except FluxError:
            return
