"""A session that runs in processes of its own, for a program that has other things to do.

The program holds one end of a pipe, the session's lifeline. When that end closes, for whatever reason, everything is
taken down. The sessions are children of a *fork server* (see :mod:`pytest_flux.launcher.forkserver`), which has
imported all that they need.
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
# How long, in seconds, what is being taken down may take to be gone; the supervisor gives its brokers less.
_KILL_LIMIT = 10.0

_ours: weakref.WeakSet[DetachedSession] = weakref.WeakSet()


class DetachedSession:
    """Started on creation. What brokers print, and what the launcher has to say, goes to the descriptor ``output``.

    ``environ`` is the environment that the brokers get. ``lifeline`` is a descriptor whose end the session is not to
    outlive, in the place of a pipe of its own; negative for none: the session then stays until it is stopped.
    ``rundir`` and ``exit_codes``, by rank, are known once told.
    """

    def __init__(
        self, spec: LaunchSpec, environ: Mapping[str, str], output: int, *, lifeline: int | None = None
    ) -> None:
        self.rundir: str | None = None
        self.exit_codes: dict[int, int] = {}
        self.exit_code: int | None = None
        self._booted: set[int] = set()
        self._told_code = _KILLED
        self._problem = ""
        self._unread = b""
        self._lifeline = -1
        theirs = lifeline
        if theirs is None:
            theirs, self._lifeline = os.pipe()
        self._status, told = os.pipe()
        try:
            self.pid = forkserver.current().start(spec, environ, output, told, theirs)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(told)
            if lifeline is None:
                os.close(theirs)
        _ours.add(self)

    def fileno(self) -> int:
        """What becomes readable when there is something to :meth:`poll` for; -1 after the end."""
        return self._status

    def poll(self) -> int | None:
        """Take in what the session has told, without waiting. The exit code, 128 + n for signal n; None before."""
        while self._status >= 0 and self._read_status(0):
            pass
        return self.exit_code

    def wait_booted(self, rank: int, timeout: float) -> None:
        """Wait until clients may connect to a rank. LaunchError if the session ends first, TimeoutError."""
        self._wait_until(lambda: rank in self._booted, timeout)

    def wait_rundir(self, timeout: float) -> str:
        """Wait until it is known where the sockets are. Raises as :meth:`wait_booted`."""
        self._wait_until(lambda: self.rundir is not None, timeout)
        assert self.rundir is not None
        return self.rundir

    def wait_ended(self, rank: int, timeout: float) -> None:
        """Wait until a rank has ended, or all of them. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.poll() is None and rank not in self.exit_codes:
            if not self._read_status(deadline - time.monotonic()) and self._status >= 0:
                raise TimeoutError

    def _wait_until(self, is_so: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.poll()
        while not is_so():
            self.check()
            # What has come while we checked may be what we wait for.
            if not is_so() and not self._read_status(deadline - time.monotonic()) and self._status >= 0:
                raise TimeoutError

    def check(self) -> None:
        """Raise LaunchError if the session has ended before it was up."""
        if self.poll() is not None:
            problem = self._problem or f"the instance ended with exit code {self.exit_code} before it was up"
            raise LaunchError(problem)

    def terminate(self) -> None:
        """Have the instance shut down in order, without waiting for it."""
        if self.poll() is None:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                return

    def wait(self, timeout: float) -> int:
        """Wait for the end. The exit code. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.exit_code is None:
            if not self._read_status(deadline - time.monotonic()) and self._status >= 0:
                raise TimeoutError
        return self.exit_code

    def stop(self, timeout: float) -> int:
        """Have the instance shut down in order; kill it when that takes longer than ``timeout``. The exit code."""
        self.terminate()
        try:
            return self.wait(timeout)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int:
        """Take everything down at once. The exit code."""
        has_lifeline = self._lifeline >= 0
        self.abandon()
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
            self._close()

    def release(self) -> None:
        """Have no more to do with a session that others hold, or nobody."""
        self._close()

    def abandon(self) -> None:
        """Let go of the lifeline, in a process that has not started the session or wants it gone."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _read_status(self, timeout: float) -> bool:
        """Take in what the session tells; False if there is nothing, or nothing any more."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if not poll.poll(max(timeout, 0) * 1000):
            return False
        data = os.read(self._status, 4096)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(*os.fsdecode(line).split(" ", 1))
        if not data:
            # The front tells its exit code last of all, unless it is killed.
            self.exit_code = self._told_code
            self._close()
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
            self._told_code = int(value)

    def _close(self) -> None:
        self.abandon()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1


def _let_go() -> None:
    """In a forked child: it must not keep alive what its parent has started."""
    for session in _ours:
        session._close()
    _ours.clear()


os.register_at_fork(after_in_child=_let_go)
