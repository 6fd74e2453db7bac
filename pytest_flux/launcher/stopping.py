"""End an instance early: because of a signal, orderly shutdown escalating to SIGKILL, or by the exit timer."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Collection
from functools import partial

from pytest_flux.launcher.descendants import kill_jobs
from pytest_flux.launcher.report import report
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.timers import Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pytest_flux.launcher.query import BrokerQuery

    class Brokers(Protocol):
        """The brokers to stop."""

        def running(self) -> Collection[int]:
            """The ranks that run."""

        def pid(self, rank: int) -> int:
            """Process id of a rank, -1 if it does not run."""

        def signal(self, signum: int) -> list[int]:
            """Signal all brokers that run, and return their ranks."""

        def kill(self) -> None:
            """Kill every process of the instance."""


_DEFAULT_PATIENCE = 20.0
# The time, in seconds, that jobs may take to end, and from then on the interval between kills.
_JOB_GRACE, _JOB_INTERVAL = 3.5, 0.1
# The time, in seconds, that brokers may take to follow rank 0 before they get the signal too.
_FOLLOW_GRACE = 1.0
# If a real broker has one of these states, a signal that was sent before has not arrived or has had no effect yet.
_STARTING = ("join", "config-sync", "init", "quorum")


class Stopping:
    """Stops ``brokers``, and kills them if none exits for ``patience`` seconds (20 if that is infinite).

    ``path`` is the socket of a real Flux's rank 0, None for embedded brokers. Jobs of these, in ``rundir``, are
    killed if they hold up the end; a real Flux has its own rules for that.
    """

    def __init__(self, reactor: Reactor, brokers: Brokers, patience: float, path: str | None, rundir: str) -> None:
        self._reactor = reactor
        self._brokers = brokers
        self._patience = patience if math.isfinite(patience) else _DEFAULT_PATIENCE
        self._path = path
        self._rundir = rundir
        self._timer: Timer | None = None
        self._job_timer: Timer | None = None
        self._query: BrokerQuery | None = None
        self.signum = 0
        """The signal that stops the instance; 0 before."""

    def request(self, signum: int, *, delivered: bool, early: bool) -> None:
        """Stop the brokers by ``signum``; the second time, kill everything.

        With ``delivered``, brokers have got the signal already: a terminal sends it to the whole group. With
        ``early``, rank 0 has not answered a question yet.
        """
        if self.signum:
            ranks = _encode(self._brokers.running())
            report(f"{signal.Signals(signum).name} while stopping: killed rank {ranks}")
            self._brokers.kill()
            return
        self.signum = signum
        if not delivered:
            self._forward()
        # Those that are stopped (SIGSTOP) could not end in order.
        self._brokers.signal(signal.SIGCONT)
        self._wait()
        if self._path is None:
            # A job may trap SIGTERM, fork on and on, or have left its process group with the pipes of its output.
            self._job_timer = self._reactor.call_later(_JOB_GRACE, self._kill_jobs)
        if self._path is not None and self._brokers.pid(0) >= 0:
            self._ask_state(early)

    def broker_ended(self, rank: int, code: int) -> None:
        """Note the end of a broker, with its exit code or negative signal number."""
        if rank == 0:
            self._cancel_query()
        if not self.signum:
            return
        self._wait()
        if rank == 0:
            # In an orderly shutdown the others are about to follow. If rank 0 was killed, none was begun, so signal
            # them at once.
            self._reactor.call_later(_FOLLOW_GRACE if code >= 0 else 0, self._forward)

    def close(self) -> None:
        """Cancel everything."""
        if self._job_timer is not None:
            self._job_timer.cancel()
            self._job_timer = None
        self._cancel_query()

    def _cancel_query(self) -> None:
        if self._query is not None:
            self._query.cancel()
            self._query = None

    def _forward(self) -> None:
        """Send the signal to rank 0, which shuts down the others, or to the others if rank 0 has ended."""
        leader = self._brokers.pid(0)
        if leader >= 0:
            os.kill(leader, self.signum)
        else:
            self._brokers.signal(self.signum)

    def _kill_jobs(self) -> None:
        kill_jobs(self._rundir)
        self._job_timer = self._reactor.call_later(_JOB_INTERVAL, self._kill_jobs)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.call_later(self._patience, self._lose_patience)

    def _lose_patience(self) -> None:
        name, ranks = signal.Signals(self.signum).name, _encode(self._brokers.running())
        report(f"No broker exited in time after {name}: killed rank {ranks}")
        self._brokers.kill()

    def _ask_state(self, early: bool) -> None:
        from pytest_flux.launcher.query import STATE, BrokerQuery

        assert self._path is not None
        # Without delay: a late answer is not the state in which the signal arrived.
        self._query = BrokerQuery(self._reactor, self._path, STATE, partial(self._repeat, early), interval=0)

    def _repeat(self, early: bool, answers: list[dict[str, Any]]) -> None:
        """Repeat the signal if it may have arrived in the first state, in which a real broker ignores signals."""
        state = answers[0].get("state") if answers else None
        if state == "load-builtins":
            self._ask_state(early=True)
        elif state in _STARTING or (state == "run" and early):
            self._forward()


class ExitReaper:
    """The exit timer: calls ``expired`` if brokers still run ``timeout`` seconds after the first end that counts.

    In mode ``any`` the end of any broker counts, in mode ``leader`` that of rank 0.
    """

    def __init__(self, reactor: Reactor, size: int, mode: str, timeout: float, expired: Callable[[], None]) -> None:
        self._reactor = reactor
        self._size = size
        self._mode = mode
        self._timeout = timeout
        self._expired = expired
        self._timer: Timer | None = None
        self._leaving = False

    def update(self, running: Collection[int]) -> None:
        """Start or stop the timer for the ranks that run. Call it when a broker has ended, and only then.

        As in flux-start, starting a rank again does not stop the timer, and a timer that has expired is not started
        again until the condition was false at the end of a broker.
        """
        some_gone = len(running) < self._size if self._mode == "any" else 0 not in running
        leaving = some_gone and bool(running)
        if leaving and not self._leaving and math.isfinite(self._timeout):
            self._timer = self._reactor.call_later(self._timeout, self._expired)
        elif not leaving:
            self.cancel()
        self._leaving = leaving

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _encode(ranks: Collection[int]) -> str:
    from pytest_flux.protocol.idset import encode_idset

    return encode_idset(ranks)
