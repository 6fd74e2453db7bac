"""`clock`: the time of an instance whose time can stop and jump (ours; flux-core has no such service)."""

from __future__ import annotations

import errno
import math

from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.broker.timekeeper import FOLLOW, LeadingTimekeeper, Timekeeper, Wish
from pytest_flux.protocol.errors import FluxError
from pytest_flux.reactor.virtual_clock import MICROSECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router

_LATEST = 253402300799.0
"""The end of the year 9999."""


class ClockService(Service):
    """On rank 0. Times are seconds since the epoch."""

    name = "clock"
    is_module = False

    def __init__(self, router: Router, log: BrokerLog, keeper: LeadingTimekeeper) -> None:
        super().__init__(router, log)
        self._keeper = keeper

    @method("now", roles=ALL)
    def now(self, request: Request) -> Answer:
        """→ ``{now, mode, running, waiting, unsettled}``; ``waiting`` are ranks that have not settled yet."""
        return self._keeper.describe()

    @method("advance")
    def advance(self, request: Request) -> _Later:
        """``{seconds}`` or ``{to}`` → ``{now, next, ...}`` when everything that became due has happened."""
        clock = self._keeper.clock
        if "to" in request.json():
            goal = self._moment(request.field("to", float))
        else:
            seconds = request.field("seconds", float)
            if not 0 <= seconds <= _LATEST:
                raise FluxError(errno.EINVAL, f"cannot advance by {seconds} seconds")
            goal = clock.state[0] + round(seconds * MICROSECONDS)
        if goal < clock.state[0]:
            raise FluxError(errno.EINVAL, f"time does not go back: it is {clock.time()} already")
        return self._add(request, goal)

    @method("step")
    def step(self, request: Request) -> _Later:
        """``{limit?}`` → ``{now, next, stepped}``: advance to the next moment at which something is due."""
        limit = request.field("limit", float, None)
        return self._add(request, None if limit is None else self._moment(limit), is_step=True)

    @method("next")
    def next(self, request: Request) -> _Later:
        """→ ``{now, next}``: when the next timer is due, once all that is due now has happened."""
        return self._add(request, None)

    @method("mode")
    def mode(self, request: Request) -> Answer:
        """``{mode}``: "manual" or "auto" from now on."""
        self._keeper.set_mode(request.field("mode", str))
        return None

    def _moment(self, seconds: float) -> int:
        if not math.isfinite(seconds) or not 0 <= seconds <= _LATEST:
            raise FluxError(errno.EINVAL, f"{seconds} is not a time that this clock can reach")
        return round(seconds * MICROSECONDS) - self._keeper.clock.start

    def _add(self, request: Request, goal: int | None, *, is_step: bool = False) -> _Later:
        self._keeper.add(Wish(request, goal, self.release, is_step=is_step))
        return self.hold(request)

    def abandoned(self, request: Request) -> None:
        """Forget what a client wanted that has disconnected or cancelled."""
        self._keeper.drop(request)


class ClockFollowService(Service):
    """On every rank, for its neighbours: see timekeeper.py."""

    name = FOLLOW
    is_module = False

    def __init__(self, router: Router, log: BrokerLog, keeper: Timekeeper) -> None:
        super().__init__(router, log)
        self._keeper = keeper

    @method("set")
    def set(self, request: Request) -> Answer:
        """``{moment, base, mode}``: follow the parent's clock."""
        self._keeper.set(request)
        return None

    @method("settle")
    def settle(self, request: Request) -> _Later:
        """``{moment, base, mode}`` → ``{due, busy, moved}``: follow, and report when this subtree is idle."""
        self._keeper.take_state(request)
        self._keeper.survey(lambda report: request.respond(report._asdict()))
        return LATER

    @method("changed")
    def changed(self, request: Request) -> Answer:
        """A child's last report is no longer true."""
        if isinstance(self._keeper, LeadingTimekeeper):
            self._keeper.note_change()
        else:
            self._keeper.pass_on_change()
        return None
