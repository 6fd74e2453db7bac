"""Shutting an instance down before its time, because of a signal: in order, and if that does not work, not so."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Collection
from functools import partial

from pytest_flux.launcher.report import report
from pytest_flux.reactor.reactor import Reactor, Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pytest_flux.launcher.query import BrokerQuery

    class Brokers(Protocol):
        """What is to be stopped."""

        def running(self) -> Collection[int]:
            """The ranks that run."""

        def pid(self, rank: int) -> int:
            """Process id of a rank, -1 if it does not run."""

        def signal(self, signum: int) -> list[int]:
            """Signal all brokers that run. Their ranks."""

        def kill(self) -> None:
            """Kill every process of the instance."""


_DEFAULT_PATIENCE = 20.0
# How long brokers may take to follow rank 0 before they are told to.
_FOLLOW_GRACE = 1.0
# States of a real broker's in which a signal starts its shutdown: in these it has not come, or has not worked yet.
_STARTING = ("join", "config-sync", "init", "quorum")


class Stopping:
    """Stops ``brokers``, and kills them when none has exited for ``patience`` seconds (20 if that is infinite).

    ``path`` is where a rank 0 of a real Flux listens, None for others.
    """

    def __init__(self, reactor: Reactor, brokers: Brokers, patience: float, path: str | None) -> None:
        self._reactor = reactor
        self._brokers = brokers
        self._patience = patience if math.isfinite(patience) else _DEFAULT_PATIENCE
        self._path = path
        self._timer: Timer | None = None
        self._query: BrokerQuery | None = None
        self.signum = 0
        """The signal to stop by; 0 as long as there is none."""

    def request(self, signum: int, *, delivered: bool, early: bool) -> None:
        """Stop as ``signum`` would; the second time kill everything.

        ``delivered`` says that brokers have got the signal already: a terminal sends it to the whole group. ``early``
        says that rank 0 has not been heard of yet.
        """
        if self.signum:
            ranks = _encode(self._brokers.running())
            report(f"{signal.Signals(signum).name} while stopping: killed rank {ranks}")
            self._brokers.kill()
            return
        self.signum = signum
        if not delivered:
            self._forward()
        self._wait()
        if self._path is not None and self._brokers.pid(0) >= 0:
            self._ask_state(early)

    def broker_ended(self, rank: int, code: int) -> None:
        """A broker has ended, with an exit code, or a signal's number made negative; others run."""
        if rank == 0:
            self.close()
        if not self.signum:
            return
        self._wait()
        if rank == 0:
            # In an orderly shutdown they are about to follow. If rank 0 did not live to order one, they wait for it
            # in vain.
            self._reactor.call_later(_FOLLOW_GRACE if code >= 0 else 0, self._forward)

    def close(self) -> None:
        """Stop asking rank 0."""
        if self._query is not None:
            self._query.cancel()
            self._query = None

    def _forward(self) -> None:
        """To rank 0, which orders the others' shutdown; to the others if it is no more."""
        leader = self._brokers.pid(0)
        if leader >= 0:
            os.kill(leader, self.signum)
        else:
            self._brokers.signal(self.signum)

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
        # At once: the more time passes, the less the answer tells of the state in which the signal came.
        self._query = BrokerQuery(self._reactor, self._path, STATE, partial(self._repeat, early), interval=0)

    def _repeat(self, early: bool, answers: list[dict[str, Any]]) -> None:
        """A real broker ignores signals while in the first of its states. Repeat it if that may have been so."""
        state = answers[0].get("state") if answers else None
        if state == "load-builtins":
            self._ask_state(early=True)
        elif state in _STARTING or (state == "run" and early):
            self._forward()


def _encode(ranks: Collection[int]) -> str:
    from pytest_flux.protocol.idset import encode_idset

    return encode_idset(ranks)
