"""A session in the background of a program, such as pytest.

The program holds one end of a pipe, the session's lifeline. When that end closes, for whatever reason, everything is
killed. The session is a child of the fork server (see :mod:`pytest_flux.launcher.forkserver`).
"""

from __future__ import annotations

import os
import select
import signal
import time
import weakref
from collections.abc import Callable, Mapping

from pytest_flux.launcher import forkserver
from pytest_flux.launcher.spec import LaunchError, LaunchSpec

_KILLED = 128 + signal.SIGKILL
# The time, in seconds, that a killed session may take to end; the supervisor gives its brokers less.
_KILL_LIMIT = 10.0

_ours: weakref.WeakSet[DetachedSession] = weakref.WeakSet()


class DetachedSession:
    """A session, which is started on creation. Brokers and launcher write to the descriptor ``output``.

    ``environ`` is the environment of the brokers. ``lifeline`` is a descriptor that replaces the pipe as lifeline; if
    negative, there is none, and the session stays until it is stopped. ``rundir`` and ``exit_codes``, by rank, are
    set when the session reports them.
    """

    def __init__(
        self, spec: LaunchSpec, environ: Mapping[str, str], output: int, *, lifeline: int | None = None
    ) -> None:
        self.rundir: str | None = None
        self.exit_codes: dict[int, int] = {}
        self.exit_code: int | None = None
        self._booted: set[int] = set()
        self._reported_code = _KILLED
        self._problem = ""
        self._unread = b""
        self._lifeline = -1
        theirs = lifeline
        if theirs is None:
            theirs, self._lifeline = os.pipe()
        self._status, report = os.pipe()
        try:
            self.pid = forkserver.current().start(spec, environ, output, report, theirs)
        except BaseException:
            self.release()
            raise
        finally:
            os.close(report)
            if lifeline is None:
                os.close(theirs)
        _ours.add(self)

    def fileno(self) -> int:
        """A descriptor that is readable when there is a report to :meth:`poll` for; -1 after the end."""
        return self._status

    def poll(self) -> int | None:
        """Read the session's reports without waiting. Return the exit code, 128 + n for signal n; None before."""
        while self._status >= 0 and self._read_status(0):
            pass
        return self.exit_code

    def wait_booted(self, rank: int, timeout: float) -> None:
        """Wait until a rank accepts clients. Raises LaunchError if the session ends first, TimeoutError."""
        self._wait_until(lambda: rank in self._booted, timeout)

    def wait_rundir(self, timeout: float) -> str:
        """Wait until the run directory is known, and return it. Raises as :meth:`wait_booted`."""
        self._wait_until(lambda: self.rundir is not None, timeout)
        assert self.rundir is not None
        return self.rundir

    def wait_ended(self, rank: int, timeout: float) -> None:
        """Wait until a rank, or the session, has ended. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.poll() is None and rank not in self.exit_codes:
            if not self._read_status(deadline - time.monotonic()) and self._status >= 0:
                raise TimeoutError

    def _wait_until(self, is_so: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.poll()
        while not is_so():
            self.check()
            # The check may have read the report that we wait for.
            if not is_so() and not self._read_status(deadline - time.monotonic()) and self._status >= 0:
                raise TimeoutError

    def check(self) -> None:
        """Raise LaunchError if the session has ended before it was up."""
        if self.poll() is not None:
            problem = self._problem or f"the instance ended with exit code {self.exit_code} before it was up"
            raise LaunchError(problem)

    def terminate(self) -> None:
        """Begin an orderly shutdown without waiting for it."""
        if self.poll() is None:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                return

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit code. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.exit_code is None:
            if not self._read_status(deadline - time.monotonic()) and self._status >= 0:
                raise TimeoutError
        return self.exit_code

    def kill(self) -> int:
        """Kill everything at once and return the exit code."""
        has_lifeline = self._lifeline >= 0
        self._cut_lifeline()
        if not has_lifeline and self.poll() is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            return self.wait(_KILL_LIMIT)
        except TimeoutError:
            return _KILLED
        finally:
            self.release()

    def _cut_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _read_status(self, timeout: float) -> bool:
        """Read the session's reports; False if there is none in time, or after the last."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if not poll.poll(max(timeout, 0) * 1000):
            return False
        data = os.read(self._status, 4096)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(*os.fsdecode(line).split(" ", 1))
        if not data:
            # The exit code is the front's last report, unless the front is killed.
            self.exit_code = self._reported_code
            self.release()
        return bool(data)

    def _take(self, what: str, value: str) -> None:
        if what == "rundir":
            self.rundir = value
        elif what == "booted":
            self._booted.add(int(value))
        elif what == "ended":
            rank, code = map(int, value.split())
            self.exit_codes[rank] = code
        elif what == "problem":
            self._problem = value
        elif what == "exit":
            self._reported_code = int(value)

    def release(self) -> None:
        """Close our descriptors, in a process that has not started the session or leaves it to others."""
        self._cut_lifeline()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1


def _let_go() -> None:
    """In a forked child: close the lifelines, or the child would keep its parent's sessions alive."""
    for session in _ours:
        session.release()
    _ours.clear()


os.register_at_fork(after_in_child=_let_go)
