"""How the brokers of an instance agree on a time that stops and jumps (``flux-start --clock``).

The promise to a test: when ``advance`` returns, everything that became due at any rank has happened, in due order,
with all that followed from it, messages in flight included. So two questions must be answered: what time is it, and
when is it safe to move it?

*What time it is.* Rank 0 leads: it alone decides. It sends the state of its clock down the tree, and each broker
passes it on before anything that it does at the new time. Links keep the order of messages, so no broker gets a
message of 10:00 while its own clock shows 9:00. Shared memory would be faster, but a file that any rank may damage
would be the one thing in the instance that is not a message.

*When it is safe.* A broker is idle if its reactor has nothing to do: no callback, no readable socket, no work put off
by ``Reactor.batch``. All brokers may be idle while a message travels. Rank 0 therefore makes *surveys* down the tree:
each broker waits until it and its subtree are idle, then reports whether messages have passed its links since its
last report. Time may move after a survey in which nobody, rank 0 included, has seen any. That is enough: a report
travels the same link as the messages before it, so what a broker has sent before its report is received before its
parent's, and what its parent sent before the survey is received before the survey; a broker that was idle and got
nothing since has nothing to send. (Mattern's counters do without the order of messages; we have it.) A broker without
children makes no survey.

*Whom time waits for.* A report also says when the next timer of the subtree is due, and whether processes run there.
The clock jumps from one due moment to the next. In the mode ``auto`` it jumps by itself, unless a process of a job or
of ``flux exec`` lives: then it runs at the pace of the system's clock until they have ended. In the mode ``manual``
it moves on request only. A job that is being started or killed is a consequence like a message, and is waited for. A
broker tells its parent when a report of its has become too late: a process or an earlier timer has come up by a local
client's request.

*What survives.* A rank that dies is a child that answers no survey: its parent drops it, with its answer, and time
goes on. A rank that joins gets the time with its first message. A rank that is stopped (SIGSTOP) stops time; the
client of ``advance`` gives up after its own timeout. When rank 0 dies, the instance ends. When the state "run" is
left, each broker lets its clock run, so that no shutdown waits for somebody to advance time.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from functools import partial

from pytest_flux.broker.overlay.peers import HEARTBEAT, Child
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import CONTROL, Message
from pytest_flux.reactor.virtual_clock import MICROSECONDS, VirtualClock
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.overlay.overlay import Overlay
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.service import Request
    from pytest_flux.reactor.reactor import Reactor

MODES = ("manual", "auto")
FOLLOW = "clock-follow"
"""The service by which brokers talk to each other about time."""

_DEFAULT_START = 946684800.0
"""2000-01-01, a Saturday: always the same, so that runs of one test can be compared to the byte."""


class Report(NamedTuple):
    """What a survey finds in a subtree: the next due moment, whether processes run, whether messages have passed."""

    due: int | None = None
    busy: bool = False
    moved: bool = False


class Work(NamedTuple):
    """What time waits for in this process: ``busy``, processes that run; ``unsettled``, jobs that start or end."""

    busy: Callable[[], bool]
    unsettled: Callable[[], bool]


class Wish:
    """What a client asks of rank 0: to settle and then to reach ``goal``, a moment in microseconds.

    With ``is_step`` the goal is a limit, and time moves to the next due moment only if that is not later.
    ``answered`` is called after the answer.
    """

    def __init__(
        self, request: Request, goal: int | None, answered: Callable[[Request], None], *, is_step: bool = False
    ) -> None:
        self.request = request
        self.goal = goal
        self.answered = answered
        self.is_step = is_step
        self.has_stepped = False


def make_clock(attributes: Attributes) -> VirtualClock:
    """The clock that the attributes ``clock.mode`` and ``clock.start`` ask for. ValueError."""
    mode = attributes.get("clock.mode")
    if mode is None:
        raise ValueError("clock.start needs clock.mode=manual or auto")
    if mode not in MODES:
        raise ValueError(f"clock.mode={mode}: {' or '.join(MODES)} is expected")
    start = attributes.get("clock.start")
    return VirtualClock(_DEFAULT_START if start is None else _parse_start(start))


def _parse_start(text: str) -> float:
    from datetime import datetime, timezone

    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"clock.start={text}: seconds since 1970 are expected, or a time such as 2030-01-31T12:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


class Timekeeper:
    """Follows the parent's clock, and answers its surveys for this broker and the subtree below it."""

    def __init__(
        self,
        clock: VirtualClock,
        reactor: Reactor,
        router: Router,
        overlay: Overlay,
        attributes: Attributes,
        work: Work,
    ) -> None:
        self.clock = clock
        self._reactor = reactor
        self._router = router
        self._overlay = overlay
        self._attributes = attributes
        self._work = work
        self._is_on = False
        self._moves = 0
        self._moves_reported = 0
        self._last = Report()
        self._survey = 0
        self._asked: set[int] = set()
        self._answers: list[Report] = []
        self._surveyed: Callable[[Report], None] | None = None
        reactor.on_idle = self._idle
        overlay.tracers.append(self._count)
        overlay.on_change.append(self._child_changed)

    def _count(self, _direction: str, _rank: int, message: Message) -> None:
        is_ours = (message.topic or "").startswith(FOLLOW)
        if not is_ours and not (message.type == CONTROL and message.aux1 == HEARTBEAT):
            self._moves += 1

    def _child_changed(self, child: Child) -> None:
        if child.is_online:
            # Not at once: its parent's answer to its hello must be the first message that it gets.
            self._reactor.call_soon(partial(self._send_state, "set", child.rank))

    # -- the time

    def _state(self) -> dict[str, Any]:
        moment, base = self.clock.state
        return {"moment": moment, "base": base, "mode": self._attributes.get("clock.mode")}

    def _send_state(self, method: str, rank: int, answered: Callable[[Message], None] | None = None) -> None:
        self._router.rpc(f"{FOLLOW}.{method}", self._state(), answered, nodeid=rank)

    def _send_state_to_all(self) -> None:
        for rank in self._overlay.online:
            self._send_state("set", rank)

    def take_state(self, request: Request) -> None:
        """Follow the parent's clock. ProtocolError."""
        base = request.json().get("base")
        self.clock.follow(request.field("moment", int), base if isinstance(base, int) else None)
        self._attributes.set("clock.mode", request.field("mode", str))
        self._reactor.stir()

    def set(self, request: Request) -> None:
        """Follow the parent's clock, and let the children follow. ProtocolError."""
        self.take_state(request)
        self._send_state_to_all()

    def state_changed(self, state: str) -> None:
        """The broker has entered a state: time is held in "run" and before it, and runs by itself afterwards."""
        is_on = state == "run"
        if self._is_on and not is_on:
            self._release()
        self._is_on = is_on
        self._reactor.stir()

    def _release(self) -> None:
        self.clock.run()
        self._send_state_to_all()

    # -- surveys

    def survey(self, surveyed: Callable[[Report], None]) -> None:
        """Call ``surveyed`` with a report of this subtree when it is idle."""
        self._survey += 1
        self._surveyed = surveyed
        self._answers = []
        self._asked = set(self._overlay.online)
        for rank in list(self._asked):
            self._send_state("settle", rank, partial(self._answered, self._survey, rank))
        self._reactor.stir()

    def _answered(self, survey: int, rank: int, message: Message) -> None:
        if survey != self._survey:
            return
        self._asked.discard(rank)
        if not message.errnum:
            answer = message.json()
            self._answers.append(Report(answer["due"], answer["busy"], answer["moved"]))
        else:
            # It is lost. What it would have reported does not matter, but its loss has consequences.
            self._answers.append(Report(moved=True))

    def _idle(self) -> None:
        if self._surveyed is None:
            self._at_rest()
        elif not self._asked:
            surveyed, self._surveyed = self._surveyed, None
            self._last = self._report()
            surveyed(self._last)

    def _report(self) -> Report:
        moved = self._moves != self._moves_reported
        self._moves_reported = self._moves
        far = self._answers
        return Report(
            _first(self.clock.due(), *(each.due for each in far)),
            self._work.busy() or any(each.busy for each in far),
            moved or any(each.moved for each in far),
        )

    def _at_rest(self) -> None:
        """Nothing is left to do in this process, and nobody has asked."""
        due, busy = self.clock.due(), self._work.busy()
        known = self._last.due
        if busy != self._last.busy or (due is not None and (known is None or due < known)):
            self._last = self._last._replace(due=_first(due, known), busy=busy)
            self.pass_on_change()

    def pass_on_change(self) -> None:
        """What this subtree has last reported is no longer true: the parent must know."""
        self._router.rpc(f"{FOLLOW}.changed", {}, upstream=True)


class LeadingTimekeeper(Timekeeper):
    """The same for rank 0, which decides what time it is."""

    def __init__(
        self,
        clock: VirtualClock,
        reactor: Reactor,
        router: Router,
        overlay: Overlay,
        attributes: Attributes,
        work: Work,
    ) -> None:
        super().__init__(clock, reactor, router, overlay, attributes, work)
        self._wishes: deque[Wish] = deque()
        self._is_settled = False
        self._settled_moves = 0

    @property
    def mode(self) -> str:
        """``manual`` or ``auto``."""
        return self._attributes.get("clock.mode") or ""

    def set_mode(self, mode: str) -> None:
        """Change the mode. FluxError EINVAL."""
        if mode not in MODES:
            raise FluxError(errno.EINVAL, f"clock mode {mode!r}: {' or '.join(MODES)} is expected")
        self._attributes.set("clock.mode", mode)
        self.clock.stop()
        self._send_state_to_all()
        self._reactor.stir()

    def _release(self) -> None:
        while self._wishes:
            wish = self._wishes.popleft()
            wish.request.error(errno.ECANCELED, "the instance shuts down: time cannot be moved")
            wish.answered(wish.request)
        super()._release()

    def add(self, wish: Wish) -> None:
        """Fulfil a wish after those before it. FluxError EAGAIN if the instance does not run (yet, or any more)."""
        if not self._is_on:
            raise FluxError(errno.EAGAIN, "time can only be moved while the instance is in the state 'run'")
        self._wishes.append(wish)
        self._reactor.stir()

    def drop(self, request: Request) -> None:
        """The client of a wish is gone."""
        self._wishes = deque(wish for wish in self._wishes if wish.request is not request)

    def waiting(self) -> list[int]:
        """The children that have not answered the present survey."""
        return sorted(self._asked) if self._surveyed is not None else []

    def note_change(self) -> None:
        """A broker below has a process or an earlier timer that it has not reported."""
        self._is_settled = False

    def _child_changed(self, child: Child) -> None:
        self._is_settled = False
        super()._child_changed(child)

    def _at_rest(self) -> None:
        is_auto = self.mode == "auto"
        if not self._is_on or not (self._wishes or is_auto):
            self._reactor.do_put_off()
            return
        if is_auto and not self._wishes and self._work.busy():
            self._let_run()
        elif self._overlay.online and not (self._is_settled and self._moves == self._settled_moves):
            self._begin_survey()
        elif self._wishes:
            self._fulfil(self._wishes[0])
        elif self._last.busy and self._overlay.online:
            self._let_run()
        else:
            self._halt()
            due = self._next()
            if due is not None:
                self._step(due)
            else:
                self._reactor.do_put_off()

    def _next(self) -> int | None:
        far = self._answers if self._overlay.online else ()
        return _first(self.clock.due(), *(each.due for each in far))

    def _begin_survey(self) -> None:
        moves = self._moves
        self._is_settled = True

        def surveyed(report: Report) -> None:
            # A change that was noted meanwhile counts.
            self._is_settled = self._is_settled and not report.moved
            self._settled_moves = moves
            self._at_rest()

        self.survey(surveyed)

    def _let_run(self) -> None:
        if not self.clock.is_running:
            self.clock.run()
            self._send_state_to_all()

    def _halt(self) -> None:
        if self.clock.is_running:
            self.clock.stop()
            self._send_state_to_all()

    def _step(self, moment: int) -> None:
        self.clock.move(moment)
        if self._overlay.online:
            self._begin_survey()
        else:
            self._reactor.stir()

    def _fulfil(self, wish: Wish) -> None:
        """Everything is quiet: move on towards the goal of a wish, or answer it."""
        self._halt()
        if self._work.unsettled():
            return
        now, due = self.clock.state[0], self._next()
        if wish.is_step:
            is_due = due is not None and (wish.goal is None or due <= wish.goal)
            wish.is_step, wish.has_stepped = False, is_due
            wish.goal = due if is_due else now
        goal = now if wish.goal is None else wish.goal
        if due is not None and due <= goal:
            self._step(due)
        elif now < goal:
            self._step(goal)
        elif not self._reactor.do_put_off():
            self._wishes.popleft()
            wish.request.respond({**self.describe(), "next": self._seconds(due), "stepped": wish.has_stepped})
            wish.answered(wish.request)
            self._reactor.stir()

    def _seconds(self, moment: int | None) -> float | None:
        return None if moment is None else (moment + self.clock.start) / MICROSECONDS

    def describe(self) -> dict[str, Any]:
        """The answer to ``clock.now``."""
        return {
            "now": self.clock.time(),
            "mode": self.mode,
            "running": self.clock.is_running,
            "waiting": self.waiting(),
            "unsettled": self._work.unsettled(),
        }


def _first(*moments: int | None) -> int | None:
    """The earliest of some moments, None if there is none."""
    return min((moment for moment in moments if moment is not None), default=None)
