"""Follow a job from submission to end: its main log, that of its execution, its output (RFC 18, 21, 24)."""

from __future__ import annotations

import errno

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import decode_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.client.connection import Connection, Rpc
    from pytest_flux.protocol.eventlog import Event

    EventCallback = Callable[[Event], None]

MAIN, EXEC, OUTPUT, INPUT = "eventlog", "guest.exec.eventlog", "guest.output", "guest.input"
"""The logs of a job, by their keys in its directory."""

WAIT_FOR_CREATION, INITIAL_SENTINEL = 1, 2
"""Flags of a watch: wait until the log exists; mark the end of the old events by an answer without an event."""

CANCEL_TOPIC = "job-info.eventlog-watch-cancel"


def watch_log(flux: Connection, jobid: int, path: str = MAIN, flags: int = 0) -> Rpc:
    """Ask for the events of one log; :func:`events_of` reads the answers."""
    request = {"id": jobid, "path": path, "flags": flags}
    return flux.rpc("job-info.eventlog-watch", request, streaming=True)


def events_of(answer: dict[str, object]) -> list[Event]:
    """The events in one answer of a watch; none in the sentinel."""
    # Not splitlines(): some of the characters that it splits at are ordinary ones in JSON.
    return [decode_event(line) for line in str(answer.get("event", "")).split("\n") if line]


class JobFollower:
    """Calls back for every event of a job, in the order of the logs, whenever ``Flux.dispatch`` is called.

    It follows the log of the execution from the job's submission, and the output from the start of the shells, or
    from their end if they never started. ``done`` is set once all of these logs have ended, or, with a
    ``wait_event``, once that has come and the others have ended. ``error`` is the error that ended ``failed_log``
    early. Logs without a callback are not followed. ``has_no_output`` is set if there is no log of output, as for a
    job that never ran.
    """

    def __init__(self, flux: Connection, jobid: int, *, wait_event: str = "clean", output_flags: int = 0) -> None:
        self.jobid = jobid
        self.wait_event = wait_event
        self.done = False
        self.error: FluxError | None = None
        self.failed_log = ""
        self.has_no_output = False
        self.on_event: EventCallback = ignore
        self.on_exec: EventCallback | None = ignore
        self.on_output: EventCallback | None = ignore
        self.on_sentinel: Callable[[], None] | None = None
        self.on_done: Callable[[], None] | None = None
        self._flux = flux
        self._output_flags = output_flags
        self._watches: dict[str, Rpc] = {}
        self._output_started = False

    def start(self) -> None:
        """Begin. Set the callbacks before."""
        self._watch(MAIN)

    def detach(self) -> None:
        """Ask for no more events; ``done`` is set when the service has agreed."""
        for rpc in self._watches.values():
            rpc.cancel(CANCEL_TOPIC)

    def stop(self, path: str) -> None:
        """Follow one log no longer."""
        rpc = self._watches.pop(path, None)
        if rpc is not None:
            rpc.cancel(CANCEL_TOPIC)
            rpc.abandon()
            self._check_done()

    def start_output(self) -> None:
        """Follow the output, if that has not begun and somebody wants it."""
        if not self._output_started and self.on_output is not None:
            self._output_started = True
            self._watch(OUTPUT, self._output_flags)

    def _watch(self, path: str, flags: int = 0) -> None:
        rpc = watch_log(self._flux, self.jobid, path, flags)
        self._watches[path] = rpc
        handler = {MAIN: self._main_event, EXEC: self._exec_event, OUTPUT: self._output_event}[path]
        rpc.then(lambda rpc: self._take(rpc, path, handler))

    def _take(self, rpc: Rpc, path: str, handler: EventCallback) -> None:
        while rpc.is_ready():
            try:
                answer = rpc.get()
            except FluxError as error:
                self._end(path, error)
                return
            if not answer and self.on_sentinel is not None:
                self.on_sentinel()
            for event in events_of(answer):
                handler(event)
            if path not in self._watches:
                return

    def _main_event(self, event: Event) -> None:
        self.on_event(event)
        if event["name"] == "submit" and (self.on_exec is not None or self.on_output is not None):
            self._watch(EXEC)
        if event["name"] == self.wait_event:
            self.stop(MAIN)

    def _exec_event(self, event: Event) -> None:
        if event["name"] in ("shell.init", "complete"):
            self.start_output()
        if self.on_exec is not None:
            self.on_exec(event)

    def _output_event(self, event: Event) -> None:
        if self.on_output is not None:
            self.on_output(event)

    def _end(self, path: str, error: FluxError) -> None:
        self._watches.pop(path, None)
        missing_output = path == OUTPUT and error.errnum == errno.ENOENT
        if error.errnum != errno.ENODATA and not missing_output and self.error is None:
            self.error, self.failed_log = error, path
            for rpc in self._watches.values():
                rpc.abandon()
            self._watches.clear()
        self.has_no_output |= missing_output
        self._check_done()

    def _check_done(self) -> None:
        if not self._watches and not self.done:
            self.done = True
            if self.on_done is not None:
                self.on_done()


def ignore(event: Event) -> None:
    """Ignore an event."""
