"""Futures: flux-core's ``future.c`` and ``composite_future.c``.

A future is initialized late, for the context that it is used in. ``flux_future_then(3)`` uses the handle and reactor
that it was given. A blocking ``flux_future_get(3)`` makes a reactor and a clone of the handle, and the init callback
gets these from the future: whatever it starts runs while the call blocks, and nothing else does. Messages that others
wait for come back to the handle afterwards.

A future of an RPC has no init callback of the user's, so that nothing of this can be seen: it waits for its response
alone, which costs less (:meth:`pytest_flux.bindings.rpc.Rpc.wait`).
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from pytest_flux.bindings.ffi import NULL, Argument, chars, ctype, fail, ffi, put, text
from pytest_flux.bindings.handle import Handle
from pytest_flux.bindings.library import function
from pytest_flux.bindings.reactor import Reactor, ReadyWatcher, TimerWatcher
from pytest_flux.protocol.message import Message

Result = tuple[int, str | None, Any]
"""How a future was fulfilled: errno (0: none), the text of the error, the value."""


class Call:
    """A request whose responses fulfill a future. What there is of it is in :mod:`pytest_flux.bindings.rpc`."""

    __slots__ = ("matchtag", "nodeid")

    matchtag: int
    nodeid: int

    def respond(self, message: Message) -> None:
        """Fulfill the future with a response."""
        raise NotImplementedError

    def wait(self, timeout: float) -> int:
        """Wait for a response: 0, or -1 with errno set."""
        raise NotImplementedError

    def finish(self) -> None:
        """Expect no more responses."""
        raise NotImplementedError


class Now:
    """The context of blocking calls on a future."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.handle: Handle | None = None
        self.is_initialized = False
        self.is_running = False
        self.has_timed_out = False

    def time_out(self, *_: Any) -> None:
        """End the run; the future may still be fulfilled later."""
        self.has_timed_out = True
        self.reactor.stop_error()


class Then:
    """The context of the continuation of a future."""

    def __init__(self, future: Future, reactor: Reactor, continuation: Callable[[Future], None]) -> None:
        self.future = future
        self.reactor = reactor
        self.continuation = continuation
        self.ready = ReadyWatcher(reactor, self._call, NULL)
        self.timer: TimerWatcher | None = None
        self.is_initialized = False

    def set_timeout(self, timeout: float) -> None:
        """Fulfill the future with ETIMEDOUT after ``timeout`` seconds; never if that is negative."""
        self.stop_timer()
        if timeout >= 0:
            self.timer = TimerWatcher(self.reactor, timeout, 0.0, self._time_out, NULL)
            self.timer.start()

    def stop_timer(self) -> None:
        """Let no time run out."""
        if self.timer is not None:
            self.timer.stop()

    def restart_timer(self) -> None:
        """Begin to measure the timeout anew."""
        if self.timer is not None:
            self.timer.stop()
            self.timer.start()

    def _time_out(self, *_: Any) -> None:
        self.future.fulfill((errno.ETIMEDOUT, None, NULL))

    def _call(self, *_: Any) -> None:
        self.stop_timer()
        self.ready.stop()
        self.continuation(self.future)


class Future:
    """A ``flux_future_t``."""

    ctype = ctype("flux_future_t *")
    __slots__ = (
        "__weakref__",
        "aux",
        "embedded",
        "fatal",
        "handle",
        "init",
        "now",
        "queue",
        "reactor",
        "references",
        "result",
        "rpc",
        "then_context",
    )

    def __init__(self, init: Callable[[Future], None] | None = None) -> None:
        self.init = init
        self.references = 1
        self.handle: Handle | None = None
        self.reactor: Reactor | None = None
        self.result: Result | None = None
        self.fatal: Result | None = None
        self.queue: deque[Result] | None = None
        self.now: Now | None = None
        self.then_context: Then | None = None
        self.embedded: Future | None = None
        self.aux: dict[str, Any] | None = None
        self.rpc: Call | None = None

    # -- results

    def is_ready(self) -> bool:
        """Whether the future is fulfilled."""
        return self.result is not None or self.fatal is not None

    def fulfill(self, result: Result) -> None:
        """Fulfill the future, or queue the result if it is fulfilled already."""
        if self.fatal is not None:
            return
        if self.result is None:
            self.result = result
        else:
            if self.queue is None:
                self.queue = deque()
            self.queue.append(result)
        self._announce()

    def fail_for_good(self, result: Result) -> None:
        """Fulfill the future with an error that stays."""
        if self.fatal is None:
            self.fatal = result
        self._announce()

    def reset(self) -> None:
        """Make room for the next result."""
        self.result = None
        if self.then_context is not None:
            self.then_context.ready.stop()
            self.then_context.restart_timer()
        if self.queue:
            self.result = self.queue.popleft()
            self._announce()

    def outcome(self) -> Result | None:
        """The result that counts."""
        return self.fatal or self.result

    def _announce(self) -> None:
        if self.now is not None:
            self.now.reactor.stop()
        if self.then_context is not None:
            self.then_context.ready.start()

    # -- contexts

    def set_flux(self, handle: Handle | None) -> None:
        """Set the handle, and the reactor if there is none yet."""
        if handle is not None:
            handle.references += 1
        if self.handle is not None:
            self.handle.release()
        self.handle = handle
        if handle is not None and self.reactor is None:
            self.reactor = handle.get_reactor()

    def get_flux(self) -> Handle | None:
        """The handle for the context that the future runs in."""
        now = self.now
        if now is None or not now.is_running or self.handle is None:
            return self.handle
        if now.handle is None:
            now.handle = self.handle.clone(now.reactor)
        return now.handle

    def get_reactor(self) -> Reactor | None:
        """The reactor for the context that the future runs in."""
        return self.now.reactor if self.now is not None and self.now.is_running else self.reactor

    def adopt_context(self, parent: Future) -> None:
        """Run where another future runs."""
        self.reactor = parent.get_reactor()
        self.set_flux(parent.get_flux())

    # -- waiting

    def then(self, continuation: Callable[[Future], None], timeout: float = -1.0) -> None:
        """Call when the future is fulfilled. It needs a reactor."""
        assert self.reactor is not None
        context = self.then_context
        if context is None:
            context = self.then_context = Then(self, self.reactor, continuation)
        context.continuation = continuation
        if self.is_ready():
            context.ready.start()
        context.set_timeout(timeout)
        if not context.is_initialized:
            context.is_initialized = True
            if self.init is not None:
                self.init(self)

    def wait_for(self, timeout: float) -> int:
        """Wait, ``timeout`` seconds at most unless it is negative: 0, or -1 with errno set."""
        if self.is_ready():
            return 0
        if timeout == 0:
            return int(fail(errno.ETIMEDOUT))
        if self.rpc is not None:
            return self.rpc.wait(timeout)
        if self.now is None:
            self.now = Now()
        return self._run(self.now, timeout)

    def _run(self, now: Now, timeout: float) -> int:
        """Initialize the future in a context of its own, and run that."""
        now.is_running = True
        now.has_timed_out = False
        timer = TimerWatcher(now.reactor, timeout, 0.0, now.time_out, NULL)
        if timeout > 0:
            timer.start()
        try:
            if self.init is not None and not now.is_initialized:
                self.init(self)
                now.is_initialized = True
            if not self.is_ready() and now.reactor.run() < 0 and not self.is_ready():
                return int(fail(errno.ETIMEDOUT if now.has_timed_out else ffi.errno or errno.EDEADLK))
        finally:
            timer.stop()
            now.is_running = False
            if now.handle is not None and "dispatch" in now.handle.aux:
                now.handle.aux["dispatch"].requeue()
        return 0 if self.is_ready() else int(fail(errno.EDEADLK))

    def get(self) -> Any:
        """The value, once there is one; None, with errno set, if the future failed."""
        if not self.is_ready() and self.wait_for(-1.0) < 0:
            return None
        outcome = self.fatal or self.result
        assert outcome is not None
        return fail(outcome[0], None) if outcome[0] else outcome[2]

    # -- the end

    def destroy(self) -> None:
        """Drop a reference; the last one ends whatever the future waits for."""
        self.references -= 1
        if self.references != 0:
            return
        if self.then_context is not None:
            self.then_context.stop_timer()
            self.then_context.ready.stop()
            self.then_context = None
        if self.rpc is not None:
            self.rpc.finish()
            self.rpc = None
        if self.aux:
            for value in self.aux.values():
                if isinstance(value, Composite):
                    value.destroy()
            self.aux = None
        if self.embedded is not None:
            self.embedded.destroy()
        if self.now is not None and self.now.handle is not None:
            self.now.handle.release()
        self.now = self.init = self.embedded = None
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.release()

    def remember(self, name: str, value: Any) -> None:
        """Keep something with the future."""
        if self.aux is None:
            self.aux = {}
        self.aux[name] = value

    def recall(self, name: str) -> Any:
        """What was kept with the future, or with the one it was fulfilled with."""
        found = None if self.aux is None else self.aux.get(name)
        return self.embedded.recall(name) if found is None and self.embedded is not None else found


class Composite:
    """The children of a future that waits for all or for any of them."""

    def __init__(self, *, wait_any: bool) -> None:
        self.children: dict[str, Future] = {}
        self.wait_any = wait_any
        self.cursor: list[str] = []
        self._number = 0

    def name(self) -> str:
        """A name for a child that has none."""
        self._number += 1
        return str(self._number - 1)

    def initialize(self, parent: Future) -> None:
        """Wait for the children, in the context of the parent."""
        for child in self.children.values():
            child.adopt_context(parent)
            child.then(lambda child: self._check(parent, child))
        if not self.children and not self.wait_any:
            parent.fulfill((0, None, NULL))

    def _check(self, parent: Future, child: Future) -> None:
        if self.wait_any:
            errnum = _errnum(child)
        else:
            if not all(one.is_ready() for one in self.children.values()):
                return
            errnum = next(filter(None, map(_errnum, reversed(list(self.children.values())))), 0)
        parent.fulfill((errnum, None, NULL))

    def destroy(self) -> None:
        """The parent owns the children."""
        children, self.children = self.children, {}
        for child in children.values():
            child.destroy()


def _errnum(future: Future) -> int:
    outcome = future.outcome()
    return outcome[0] if outcome is not None else 0


# -- making, and waiting


@function("flux_future_init_f *, void * -> flux_future_t *")
def flux_future_create(cb: Any, arg: Any) -> Future:
    """Make a future: flux_future_create(3)."""
    if cb is NULL:
        return Future()
    argument = Argument(arg)

    def init(future: Future) -> None:
        value = argument.get()
        if value is not None:
            cb(future, value)

    return Future(init)


@function("flux_future_t * -> void")
def flux_future_destroy(f: Any) -> None:
    """Drop a reference: flux_future_get(3)."""
    if f is not NULL:
        f.destroy()


@function("flux_future_t * -> void")
def flux_future_incref(f: Future) -> None:
    """Take a reference: flux_future_create(3)."""
    f.references += 1


@function("flux_future_t * -> void")
def flux_future_decref(f: Future) -> None:
    """Drop a reference: flux_future_create(3)."""
    f.destroy()


@function("flux_future_t *, double, flux_continuation_f *, void * -> int")
def flux_future_then(f: Future, timeout: float, cb: Any, arg: Any) -> int:
    """Call back when a future is fulfilled: flux_future_get(3)."""
    if cb is NULL or f.reactor is None:
        return int(fail(errno.EINVAL))
    argument = Argument(arg)

    def continuation(future: Future) -> None:
        value = argument.get()
        if value is not None:
            cb(future, value)

    f.then(continuation, timeout)
    return 0


@function("flux_future_t *, double -> int")
def flux_future_wait_for(f: Any, timeout: float) -> int:
    """Wait for a future: flux_future_get(3)."""
    return int(fail(errno.EINVAL)) if f is NULL else int(f.wait_for(timeout))


@function("flux_future_t *, void ** -> int")
def flux_future_get(f: Any, result: Any) -> int:
    """Wait for a future, and give its value or error: flux_future_get(3)."""
    value = fail(errno.EINVAL, None) if f is NULL else f.get()
    if value is None:
        return -1
    put(result, value)
    return 0


@function("flux_future_t * -> bool")
def flux_future_is_ready(f: Future) -> bool:
    """Whether a future is fulfilled: flux_future_get(3)."""
    return f.is_ready()


@function("flux_future_t * -> void")
def flux_future_reset(f: Future) -> None:
    """Make room for the next result: flux_future_get(3)."""
    f.reset()


@function("flux_future_t * -> bool")
def flux_future_has_error(f: Future) -> bool:
    """Whether a future has failed: flux_future_get(3)."""
    return bool(_errnum(f))


@function("flux_future_t * -> char *")
def flux_future_error_string(f: Any) -> Any:
    """What a future says of its error: flux_future_get(3)."""
    outcome = None if f is NULL else f.outcome()
    if outcome is None or not outcome[0]:
        return NULL
    return chars(outcome[1] or os.strerror(outcome[0]))


# -- fulfilling


@function("flux_future_t *, void *, flux_free_f * -> void")
def flux_future_fulfill(f: Future, result: Any, free_fn: Any) -> None:
    """Fulfill a future: flux_future_create(3)."""
    f.fulfill((0, None, result))


@function("flux_future_t *, int, char * -> void")
def flux_future_fulfill_error(f: Future, errnum: int, errstr: Any) -> None:
    """Fulfill a future with an error: flux_future_create(3)."""
    f.fulfill((errnum, text(errstr), NULL))


@function("flux_future_t *, int, char * -> void")
def flux_future_fatal_error(f: Future, errnum: int, errstr: Any) -> None:
    """Fulfill a future with an error that stays: flux_future_create(3)."""
    f.fail_for_good((errnum, text(errstr), NULL))


@function("flux_future_t *, flux_future_t * -> int")
def flux_future_fulfill_with(f: Future, p: Future) -> int:
    """Fulfill a future with the result of another one: flux_future_create(3)."""
    if f is p:
        return int(fail(errno.EINVAL))
    if f.embedded is not None and f.embedded is not p:
        return int(fail(errno.EEXIST))
    outcome = p.outcome()
    if outcome is None:
        return int(fail(errno.EAGAIN))
    if p.fatal is not None:
        f.fail_for_good(outcome)
    else:
        f.fulfill(outcome)
    if f.embedded is None:
        p.references += 1
        f.embedded = p
    return 0


# -- context


@function("flux_future_t *, flux_t * -> void")
def flux_future_set_flux(f: Future, h: Any) -> None:
    """Set the handle of a future: flux_future_create(3)."""
    f.set_flux(None if h is NULL else h)


@function("flux_future_t * -> flux_t *")
def flux_future_get_flux(f: Future) -> Any:
    """The handle of a future, for its context: flux_future_create(3)."""
    return f.get_flux() or fail(errno.EINVAL, NULL)


@function("flux_future_t *, flux_reactor_t * -> void")
def flux_future_set_reactor(f: Future, r: Any) -> None:
    """Set the reactor of a future: flux_future_create(3)."""
    f.reactor = None if r is NULL else r


@function("flux_future_t * -> flux_reactor_t *")
def flux_future_get_reactor(f: Future) -> Any:
    """The reactor of a future, for its context: flux_future_create(3)."""
    return f.get_reactor() or fail(errno.EINVAL, NULL)


@function("flux_future_t *, char * -> void *")
def flux_future_aux_get(f: Future, name: Any) -> Any:
    """What was attached to a future: flux_future_get(3)."""
    found = f.recall(f"aux {text(name)}")
    return fail(errno.ENOENT, NULL) if found is None else found


@function("flux_future_t *, char *, void *, flux_free_f * -> int")
def flux_future_aux_set(f: Future, name: Any, aux: Any, destroy: Any) -> int:
    """Attach something to a future: flux_future_get(3)."""
    f.remember(f"aux {text(name)}", aux)
    return 0


# -- composite futures


def _create_composite(*, wait_any: bool) -> Future:
    composite = Composite(wait_any=wait_any)
    future = Future(composite.initialize)
    future.remember("composite", composite)
    return future


@function("-> flux_future_t *")
def flux_future_wait_all_create() -> Future:
    """Make a future that waits for all its children: flux_future_wait_all_create(3)."""
    return _create_composite(wait_any=False)


@function("-> flux_future_t *")
def flux_future_wait_any_create() -> Future:
    """Make a future that waits for the first of its children: flux_future_wait_all_create(3)."""
    return _create_composite(wait_any=True)


@function("flux_future_t *, char *, flux_future_t * -> int")
def flux_future_push(cf: Future, name: Any, f: Any) -> int:
    """Add a child, which then belongs to the composite future: flux_future_wait_all_create(3)."""
    composite = cf.recall("composite")
    if composite is None or f is NULL:
        return int(fail(errno.EINVAL))
    key = text(name)
    if key is None:
        key = composite.name()
    if key in composite.children:
        return int(fail(errno.EEXIST))
    composite.children[key] = f
    return 0


@function("flux_future_t *, char * -> flux_future_t *")
def flux_future_get_child(cf: Future, name: Any) -> Any:
    """A child by name: flux_future_wait_all_create(3)."""
    composite = cf.recall("composite")
    return fail(errno.EINVAL, NULL) if composite is None else composite.children.get(text(name), NULL)


@function("flux_future_t * -> char *")
def flux_future_first_child(cf: Future) -> Any:
    """The name of the first child: flux_future_wait_all_create(3)."""
    composite = cf.recall("composite")
    if composite is None:
        return fail(errno.EINVAL, NULL)
    composite.cursor = list(composite.children)
    return flux_future_next_child(cf)


@function("flux_future_t * -> char *")
def flux_future_next_child(cf: Future) -> Any:
    """The name of the next child: flux_future_wait_all_create(3)."""
    composite = cf.recall("composite")
    if composite is None:
        return fail(errno.EINVAL, NULL)
    return chars(composite.cursor.pop(0)) if composite.cursor else NULL
