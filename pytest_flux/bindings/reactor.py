"""Reactors and their watchers: flux-core's ``reactor.c`` and ``watcher*.c``, which stand on libev.

What callers see of libev is kept: ``flux_reactor_run(3)`` returns when no watcher is active that holds a reference,
and returns the number of those that are; one iteration calls prepare watchers, waits, then calls check watchers
(the last started first), timers, and descriptors; a handle watcher takes one message in each iteration, so that
what was started by one message happens before the next; ``flux_reactor_stop(3)`` ends all runs of a reactor that
are on the stack.

A reactor costs nothing to make, unlike one of libev, which opens descriptors: every blocking call on a future makes
one. It waits with poll(2). Where messages are already here, it does not even do that.

Signals are Python's: a signal watcher is a handler of the `signal` module, which can only be set in the main
thread. It breaks poll(2) by an exception of ours, because Python would otherwise go on waiting after a handler has
returned.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import select
import signal
import time
from operator import index
from typing import Any

from pytest_flux.bindings.constants import FLUX_POLLERR, FLUX_POLLIN, FLUX_POLLOUT
from pytest_flux.bindings.ffi import NULL, Argument, ctype, fail
from pytest_flux.bindings.library import function
from pytest_flux.bindings.wire import Wire

FLUX_REACTOR_NOWAIT, FLUX_REACTOR_ONCE = 1, 2

# In seconds: poll(2) takes no more than 31 bits of milliseconds.
_LONGEST_POLL = 1e6
_order = itertools.count()


class _Woken(BaseException):
    """A signal watcher has been triggered while the reactor waits."""


class Reactor:
    """A ``flux_reactor_t``.

    ``active`` is the number of active watchers that hold a reference, ``eager`` of those that keep it from waiting.
    """

    ctype = ctype("flux_reactor_t *")

    def __init__(self) -> None:
        self.active = 0
        self.prepares: dict[Watcher, None] = {}
        self.checks: dict[Watcher, None] = {}
        self.idles: dict[Watcher, None] = {}
        self.eager = 0
        self.timers: list[tuple[float, int, TimerWatcher]] = []
        self.descriptors: dict[DescriptorWatcher, None] = {}
        self.handles: dict[HandleWatcher, None] = {}
        self.signals: list[SignalWatcher] = []
        self.waiting = False
        self._stopped = False
        self._failed = False

    def stop(self) -> None:
        """End all runs of this reactor."""
        self._stopped = True
        self._failed = False

    def stop_error(self) -> None:
        """End all runs of this reactor; they return -1."""
        self._stopped = True
        self._failed = True

    def run(self, flags: int = 0) -> int:
        """Call watchers until none is left or somebody calls :meth:`stop`."""
        self._stopped = self._failed = False
        while True:
            if self.prepares:
                for watcher in list(self.prepares):
                    watcher.fire(0)
                if self._stopped:
                    break
            self._iterate(flags)
            if self._stopped or not self.active or flags:
                break
        return -1 if self._failed else self.active

    def _iterate(self, flags: int) -> None:
        """Wait, then call what is due."""
        pending = any(watcher.wire.messages for watcher in self.handles)
        idle = bool(pending or self.eager or self.signals or not self.active or flags & FLUX_REACTOR_NOWAIT)
        ready: list[DescriptorWatcher] = []
        if not pending or self.descriptors or len(self.handles) > 1:
            ready = self._wait(0 if idle else self._next_timeout())
        # An earlier one may stop a later one.
        for watchers in (self.checks, self.handles):
            for watcher in list(reversed(watchers)):
                if watcher in watchers:
                    watcher.fire(0)
        if self.timers:
            self._fire_timers()
        for descriptor in reversed(ready):
            if descriptor in self.descriptors:
                descriptor.fire(descriptor.ready)
        while self.signals:
            self.signals.pop(0).fire(0)
        if self.idles:
            for idle_watcher in list(self.idles):
                if idle_watcher in self.idles:
                    idle_watcher.fire(0)

    def _next_timeout(self) -> float | None:
        """How long to wait, in milliseconds."""
        while self.timers and self.timers[0][2].token != self.timers[0][1]:
            heapq.heappop(self.timers)
        if not self.timers:
            return None
        # Rounded up, so that the timer is due when the wait is over.
        return min(max(self.timers[0][0] - time.monotonic(), 0), _LONGEST_POLL) * 1000 + 1

    def _wait(self, timeout: float | None) -> list[DescriptorWatcher]:
        poll = select.poll()
        watched: dict[int, list[DescriptorWatcher]] = {}
        for watcher in self.descriptors:
            watched.setdefault(watcher.descriptor, []).append(watcher)
        for descriptor, watchers in watched.items():
            poll.register(descriptor, _poll_flags(watchers))
        wires = {}
        for handle_watcher in self.handles:
            wire = handle_watcher.wire
            descriptor = wire.fileno()
            if descriptor >= 0:
                wires[descriptor] = wire
                poll.register(descriptor, select.POLLIN)
        try:
            self.waiting = True
            events = poll.poll(timeout)
            self.waiting = False
        except _Woken:
            return []
        finally:
            self.waiting = False
        ready = []
        for descriptor, flags in events:
            if descriptor in wires:
                wires[descriptor].read()
            for watcher in watched.get(descriptor, ()):
                watcher.ready = _flux_flags(flags) & (watcher.events | FLUX_POLLERR)
                if watcher.ready:
                    ready.append(watcher)
        return ready

    def _fire_timers(self) -> None:
        now = time.monotonic()
        due: list[TimerWatcher] = []
        while self.timers and self.timers[0][0] <= now:
            deadline, token, watcher = heapq.heappop(self.timers)
            if watcher.token == token:
                due.append(watcher)
                watcher.expire(deadline, now)
        for watcher in due:
            watcher.fire(0)


def _poll_flags(watchers: list[DescriptorWatcher]) -> int:
    flags = 0
    for watcher in watchers:
        flags |= select.POLLIN if watcher.events & FLUX_POLLIN else 0
        flags |= select.POLLOUT if watcher.events & FLUX_POLLOUT else 0
    return flags


def _flux_flags(flags: int) -> int:
    """libev reports a descriptor that was hung up as ready for whatever was asked."""
    if flags & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
        return FLUX_POLLIN | FLUX_POLLOUT | (FLUX_POLLERR if flags & select.POLLNVAL else 0)
    return (FLUX_POLLIN if flags & select.POLLIN else 0) | (FLUX_POLLOUT if flags & select.POLLOUT else 0)


class Watcher:
    """A ``flux_watcher_t``. ``weight`` is the number of libev's watchers that flux-core makes it from."""

    ctype = ctype("flux_watcher_t *")
    weight = 1

    def __init__(self, reactor: Reactor, callback: Any, argument: Any) -> None:
        self.reactor = reactor
        self.is_active = False
        self.is_referenced = True
        self._callback = None if callback is NULL else callback
        self._argument = Argument(argument)

    def start(self) -> None:
        """Let the reactor call it."""
        if not self.is_active:
            self.is_active = True
            self._add()
            if self.is_referenced:
                self.reactor.active += self.weight

    def stop(self) -> None:
        """Take it from the reactor."""
        if self.is_active:
            self.is_active = False
            self._remove()
            if self.is_referenced:
                self.reactor.active -= self.weight

    def reference(self, *, keep: bool) -> None:
        """Say whether the reactor runs on for the sake of this watcher."""
        if keep != self.is_referenced:
            self.is_referenced = keep
            if self.is_active:
                self.reactor.active += self.weight if keep else -self.weight

    def fire(self, revents: int) -> None:
        """Call its callback."""
        if self._callback is not None:
            argument = self._argument.get()
            if argument is not None:
                self._callback(self.reactor, self, revents, argument)

    def _add(self) -> None:
        raise NotImplementedError

    def _remove(self) -> None:
        raise NotImplementedError


class PrepareWatcher(Watcher):
    """Calls before each wait."""

    def _add(self) -> None:
        self.reactor.prepares[self] = None

    def _remove(self) -> None:
        del self.reactor.prepares[self]


class CheckWatcher(Watcher):
    """Calls after each wait."""

    def _add(self) -> None:
        self.reactor.checks[self] = None

    def _remove(self) -> None:
        del self.reactor.checks[self]


class IdleWatcher(Watcher):
    """Calls in each iteration, and keeps the reactor from waiting."""

    def _add(self) -> None:
        self.reactor.idles[self] = None
        self.reactor.eager += 1

    def _remove(self) -> None:
        del self.reactor.idles[self]
        self.reactor.eager -= 1


class ReadyWatcher(Watcher):
    """Calls in the next iteration. flux-core makes it from an idle and a check watcher."""

    weight = 2

    def _add(self) -> None:
        self.reactor.checks[self] = None
        self.reactor.eager += 1

    def _remove(self) -> None:
        del self.reactor.checks[self]
        self.reactor.eager -= 1


class TimerWatcher(Watcher):
    """``token`` names the entry in the reactor's heap that is valid: those of earlier starts stay there."""

    def __init__(self, reactor: Reactor, after: float, repeat: float, callback: Any, argument: Any) -> None:
        super().__init__(reactor, callback, argument)
        self.after = after
        self.repeat = repeat
        self.token = -1

    def _add(self) -> None:
        self._arm(time.monotonic() + self.after)

    def _remove(self) -> None:
        self.token = -1

    def _arm(self, deadline: float) -> None:
        self.token = next(_order)
        heapq.heappush(self.reactor.timers, (deadline, self.token, self))

    def expire(self, deadline: float, now: float) -> None:
        """Arm it again, at the time that is next after ``deadline``, or stop it."""
        if self.repeat > 0:
            self._arm(max(deadline + self.repeat, now))
        else:
            self.stop()

    def reset(self, after: float, repeat: float) -> None:
        """Set other times. As in libev, an active timer is armed anew by the next start only."""
        self.stop()
        self.after = after
        self.repeat = repeat

    def again(self) -> None:
        """Start it with the time of its repetition; stop it if it has none."""
        self.stop()
        if self.repeat > 0:
            self.after = self.repeat
            self.start()


class DescriptorWatcher(Watcher):
    """Calls when a descriptor is ready."""

    def __init__(self, reactor: Reactor, descriptor: int, events: int, callback: Any, argument: Any) -> None:
        super().__init__(reactor, callback, argument)
        self.descriptor = descriptor
        self.events = events
        self.ready = 0

    def _add(self) -> None:
        self.reactor.descriptors[self] = None

    def _remove(self) -> None:
        del self.reactor.descriptors[self]


class HandleWatcher(Watcher):
    """Calls while a handle has a message. flux-core makes it from a prepare and a check watcher."""

    weight = 2

    def __init__(self, reactor: Reactor, handle: Any, wire: Wire, events: int, callback: Any, argument: Any) -> None:
        super().__init__(reactor, callback, argument)
        self.handle = handle
        self.wire = wire
        self.events = events | FLUX_POLLERR

    def fire(self, revents: int) -> None:
        """Call its callback, if the handle has something for it."""
        wire = self.wire
        ready = FLUX_POLLIN if wire.messages else FLUX_POLLERR if wire.error else 0
        ready |= FLUX_POLLOUT
        if ready & self.events:
            super().fire(ready & self.events)

    def _add(self) -> None:
        self.reactor.handles[self] = None

    def _remove(self) -> None:
        del self.reactor.handles[self]


class SignalWatcher(Watcher):
    """Calls when a signal has come."""

    def __init__(self, reactor: Reactor, number: int, callback: Any, argument: Any) -> None:
        super().__init__(reactor, callback, argument)
        self.number = number
        self._previous: Any = None

    def _add(self) -> None:
        self._previous = signal.signal(self.number, self._trigger)

    def _remove(self) -> None:
        previous = signal.SIG_DFL if self._previous is None else self._previous
        if signal.getsignal(self.number) == self._trigger:
            signal.signal(self.number, previous)

    def _trigger(self, *_: object) -> None:
        self.reactor.signals.append(self)
        if self.reactor.waiting:
            raise _Woken


# -- reactors


@function("int -> flux_reactor_t *")
def flux_reactor_create(flags: int) -> Any:
    """Make a reactor: flux_reactor_create(3)."""
    return fail(errno.EINVAL, NULL) if flags else Reactor()


@function("flux_reactor_t * -> void")
def flux_reactor_destroy(r: Reactor) -> None:
    """Drop a reference: flux_reactor_create(3). Python keeps count."""


@function("flux_reactor_t * -> void")
def flux_reactor_incref(r: Reactor) -> None:
    """Take a reference: flux_reactor_create(3). Python keeps count."""


@function("flux_reactor_t * -> void")
def flux_reactor_decref(r: Reactor) -> None:
    """Drop a reference: flux_reactor_create(3). Python keeps count."""


@function("flux_reactor_t *, int -> int")
def flux_reactor_run(r: Reactor, flags: int) -> int:
    """Run a reactor: flux_reactor_run(3)."""
    if flags & ~(FLUX_REACTOR_NOWAIT | FLUX_REACTOR_ONCE):
        return int(fail(errno.EINVAL))
    return r.run(flags)


@function("flux_reactor_t * -> void")
def flux_reactor_stop(r: Reactor) -> None:
    """End a run: flux_reactor_stop(3)."""
    r.stop()


@function("flux_reactor_t * -> void")
def flux_reactor_stop_error(r: Reactor) -> None:
    """End a run with an error: flux_reactor_stop(3)."""
    r.stop_error()


@function("flux_reactor_t * -> double")
def flux_reactor_now(r: Reactor) -> float:
    """The wall clock: flux_reactor_now(3)."""
    return time.time()


@function("flux_reactor_t * -> void")
def flux_reactor_now_update(r: Reactor) -> None:
    """Read the clock anew, which ours always does: flux_reactor_now(3)."""


@function("-> double")
def flux_reactor_time() -> float:
    """The wall clock: flux_reactor_now(3)."""
    return time.time()


# -- watchers


@function("flux_watcher_t * -> void")
def flux_watcher_start(w: Watcher) -> None:
    """Start a watcher: flux_watcher_start(3)."""
    w.start()


@function("flux_watcher_t * -> void")
def flux_watcher_stop(w: Watcher) -> None:
    """Stop a watcher: flux_watcher_start(3)."""
    w.stop()


@function("flux_watcher_t * -> void")
def flux_watcher_ref(w: Watcher) -> None:
    """Let the reactor run for a watcher: flux_watcher_ref(3)."""
    w.reference(keep=True)


@function("flux_watcher_t * -> void")
def flux_watcher_unref(w: Watcher) -> None:
    """Let the reactor end although a watcher is active: flux_watcher_ref(3)."""
    w.reference(keep=False)


@function("flux_watcher_t * -> bool")
def flux_watcher_is_active(w: Watcher) -> bool:
    """Whether a watcher is started: flux_watcher_start(3)."""
    return w.is_active


@function("flux_watcher_t * -> bool")
def flux_watcher_is_referenced(w: Watcher) -> bool:
    """Whether the reactor runs for a watcher: flux_watcher_ref(3)."""
    return w.is_referenced


@function("flux_watcher_t *, int -> void")
def flux_watcher_set_priority(w: Watcher, priority: int) -> None:
    """Set a priority: flux_watcher_set_priority(3). Here all watchers of one kind have the same."""


@function("flux_watcher_t * -> double")
def flux_watcher_next_wakeup(w: Watcher) -> float:
    """When a timer expires: flux_periodic_watcher_create(3)."""
    for deadline, token, watcher in w.reactor.timers:
        if watcher is w and token == watcher.token:
            return time.time() + deadline - time.monotonic()
    return float(fail(errno.EINVAL))


@function("flux_watcher_t * -> void")
def flux_watcher_destroy(w: Any) -> None:
    """Stop a watcher for good: flux_watcher_start(3)."""
    if w is not NULL:
        w.stop()


@function("flux_reactor_t *, flux_t *, int, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_handle_watcher_create(r: Reactor, h: Any, events: int, cb: Any, arg: Any) -> Watcher:
    """Watch a handle: flux_handle_watcher_create(3)."""
    return HandleWatcher(r, h, h.wire, events, cb, arg)


@function("flux_watcher_t * -> flux_t *")
def flux_handle_watcher_get_flux(w: Any) -> Any:
    """The handle of a watcher: flux_handle_watcher_create(3)."""
    return w.handle if isinstance(w, HandleWatcher) else fail(errno.EINVAL, NULL)


@function("flux_reactor_t *, int, int, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_fd_watcher_create(r: Reactor, fd: int, events: int, cb: Any, arg: Any) -> Watcher:
    """Watch a descriptor: flux_fd_watcher_create(3)."""
    return DescriptorWatcher(r, fd, events, cb, arg)


@function("flux_watcher_t * -> int")
def flux_fd_watcher_get_fd(w: Any) -> int:
    """The descriptor of a watcher: flux_fd_watcher_create(3)."""
    return w.descriptor if isinstance(w, DescriptorWatcher) else int(fail(errno.EINVAL))


@function("flux_reactor_t *, double, double, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_timer_watcher_create(r: Reactor, after: float, repeat: float, cb: Any, arg: Any) -> Any:
    """Make a timer: flux_timer_watcher_create(3)."""
    if after < 0 or repeat < 0:
        return fail(errno.EINVAL, NULL)
    return TimerWatcher(r, after, repeat, cb, arg)


@function("flux_watcher_t *, double, double -> void")
def flux_timer_watcher_reset(w: TimerWatcher, after: float, repeat: float) -> None:
    """Set the times of a timer: flux_timer_watcher_create(3)."""
    w.reset(after, repeat)


@function("flux_watcher_t * -> void")
def flux_timer_watcher_again(w: TimerWatcher) -> None:
    """Start a timer with the time of its repetition: flux_timer_watcher_create(3)."""
    w.again()


@function("flux_reactor_t *, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_prepare_watcher_create(r: Reactor, cb: Any, arg: Any) -> Watcher:
    """Call before each wait: flux_idle_watcher_create(3)."""
    return PrepareWatcher(r, cb, arg)


@function("flux_reactor_t *, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_check_watcher_create(r: Reactor, cb: Any, arg: Any) -> Watcher:
    """Call after each wait: flux_idle_watcher_create(3)."""
    return CheckWatcher(r, cb, arg)


@function("flux_reactor_t *, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_idle_watcher_create(r: Reactor, cb: Any, arg: Any) -> Watcher:
    """Keep a reactor from waiting: flux_idle_watcher_create(3)."""
    return IdleWatcher(r, cb, arg)


@function("flux_reactor_t *, int, flux_watcher_f *, void * -> flux_watcher_t *")
def flux_signal_watcher_create(r: Reactor, signum: int, cb: Any, arg: Any) -> Watcher:
    """Watch a signal: flux_signal_watcher_create(3)."""
    return SignalWatcher(r, index(signum), cb, arg)


@function("flux_watcher_t * -> int")
def flux_signal_watcher_get_signum(w: Any) -> int:
    """The signal of a watcher: flux_signal_watcher_create(3)."""
    return w.number if isinstance(w, SignalWatcher) else int(fail(errno.EINVAL))
