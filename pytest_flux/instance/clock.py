"""The clock of an instance that was started with ``clock="manual"`` or ``"auto"``, for its test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from pytest_flux.client import Flux

Delay = float | str | timedelta
"""Seconds, a Flux Standard Duration (RFC 23, as "8h"), or a timedelta."""


class ClockError(Exception):
    """Time cannot be moved, or not as far as it was asked to be. The text says why."""


class InstanceClock:
    """The time of one instance. It stands still until it is moved (``manual``), or jumps by itself (``auto``).

    Each method that moves time returns when everything has happened that became due on the way, at every rank, with
    all that followed from it: what comes next in the test needs no waiting. ``timeout`` is in real seconds.
    """

    def __init__(self, connect: Callable[[], Flux], timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<InstanceClock {self.now()}>"

    @property
    def mode(self) -> str:
        """``manual`` or ``auto``. Can be set."""
        return str(self._ask("now")["mode"])

    @mode.setter
    def mode(self, mode: str) -> None:
        self._ask("mode", {"mode": mode})

    def now(self) -> datetime:
        """The time of the instance, in UTC. ``now().timestamp()`` is what its event logs have."""
        return _moment(self._ask("now")["now"])

    def advance(self, delay: Delay) -> datetime:
        """Let time pass: seconds, a duration as in ``"8h"`` (RFC 23), or a timedelta. Returns the new time."""
        return _moment(self._ask("advance", {"seconds": seconds_of(delay)})["now"])

    def advance_to(self, moment: datetime) -> datetime:
        """Let time pass until ``moment``, which must have a time zone. Raises ClockError if it is in the past."""
        return _moment(self._ask("advance", {"to": _timestamp(moment)})["now"])

    def next_event(self) -> datetime | None:
        """When the next timer of the instance is due (heartbeats do not count); None if there is none."""
        due = self._ask("next")["next"]
        return None if due is None else _moment(due)

    def run_until(self, predicate: Callable[[], object], limit: Delay | None = None) -> datetime:
        """Move from one event to the next until ``predicate()`` is true. Returns the time.

        Raises ClockError if it is still false when nothing is due any more, or after ``limit``.
        """
        last = None if limit is None else (self.now() + timedelta(seconds=seconds_of(limit))).timestamp()
        payload = {} if last is None else {"limit": last}
        self._ask("next")
        while not predicate():
            answer = self._ask("step", payload)
            if not answer["stepped"]:
                reason = "nothing more is due" if answer["next"] is None else f"that takes longer than {limit}"
                raise ClockError(f"run_until: the condition is not met at {_moment(answer['now'])}: {reason}")
        return self.now()

    def _ask(self, method: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        flux = self._connect()
        rpc = flux.rpc(f"clock.{method}", payload or {}, nodeid=0)
        try:
            return rpc.get(self._timeout)
        except FluxError as error:
            raise ClockError(error.text or str(error)) from None
        except TimeoutError:
            raise TimeoutError(f"clock.{method}: {self._describe_wait(flux)}") from None

    def _describe_wait(self, flux: Flux) -> str:
        """Why time has not moved."""
        text = f"the instance has not come to rest within {self._timeout:g} s"
        state = flux.rpc("clock.now", nodeid=0).get(self._timeout)
        if state["waiting"]:
            ranks = ", ".join(map(str, state["waiting"]))
            text += f": rank {ranks}, or one below, does not respond or is busy"
        elif state["unsettled"]:
            text += ": a job is being started or killed"
        return text


def seconds_of(delay: Delay) -> float:
    """A delay in seconds. Raises ValueError for a negative one, or a malformed text."""
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if isinstance(delay, str):
        try:
            return parse_duration(delay)
        except ProtocolError:
            raise ValueError(f"{delay!r}: a duration is expected, as '90s', '8h' or '7d'") from None
    if not delay >= 0:
        raise ValueError(f"{delay!r}: time does not go back")
    return float(delay)


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, timezone.utc)


def _timestamp(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise ValueError(f"{moment}: a datetime with a time zone is expected, as {moment}+00:00")
    return moment.timestamp()
