"""Message handlers: flux-core's ``msg_handler.c``.

A handle has one dispatcher, which takes messages one by one while any handler runs: that, and nothing else, is what
outstanding responses keep a reactor alive by. A message that nobody wants is dropped, a request is answered with
ENOSYS; but the dispatcher of a clone, which serves a blocking call, keeps it for the handle that was cloned.
"""

from __future__ import annotations

import errno
from typing import Any

from pytest_flux.bindings.constants import FLUX_POLLIN
from pytest_flux.bindings.ffi import NULL, Argument, ctype, fail, text
from pytest_flux.bindings.future import Call
from pytest_flux.bindings.handle import Handle, matches
from pytest_flux.bindings.library import function
from pytest_flux.bindings.message import respond
from pytest_flux.bindings.reactor import HandleWatcher, Reactor
from pytest_flux.protocol.message import EVENT, REQUEST, RESPONSE, ROLE_OWNER, Message

_GLOBS = frozenset("*?[")


class Dispatch:
    """Takes the messages of a handle to those who wait for them."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.calls: dict[int, Call] = {}
        self.methods: dict[str, list[MessageHandler]] = {}
        self.handlers: list[MessageHandler] = []
        self._running = 0
        self._unclaimed: list[Message] = []
        self._watcher = HandleWatcher(handle.get_reactor(), handle, handle.wire, FLUX_POLLIN, self._take, NULL)

    def hold(self) -> None:
        """Take messages, for one more reason."""
        self._running += 1
        if self._running == 1:
            self._watcher.start()

    def release(self) -> None:
        """Take no more messages, unless there is another reason."""
        self._running -= 1
        if self._running == 0:
            self._watcher.stop()

    def close(self) -> None:
        """Take no more messages: the handle is gone."""
        self._watcher.stop()
        self.requeue()

    def requeue(self) -> None:
        """Give messages that nobody wanted back to the handle that was cloned."""
        self.handle.wire.messages.extendleft(reversed(self._unclaimed))
        self._unclaimed.clear()

    def _take(self, reactor: Reactor, *_: Any) -> None:
        messages = self.handle.wire.messages
        if not messages:
            fail(self.handle.wire.error)
            reactor.stop_error()
            return
        message = messages.popleft()
        if self._deliver(message):
            return
        if self.handle.is_clone():
            self._unclaimed.append(message)
        elif message.type == REQUEST:
            respond(self.handle, message, f"Unknown service method '{message.topic}'\0".encode(), errno.ENOSYS)

    def _deliver(self, message: Message) -> bool:
        if message.type == RESPONSE:
            call = self.calls.get(message.matchtag)
            if call is not None and not message.routes:
                call.respond(message)
                return True
        elif message.type == REQUEST:
            stack = self.methods.get(message.topic or "")
            if stack and stack[-1].is_running:
                stack[-1].call(message)
                return True
        taken = False
        for handler in list(self.handlers):
            if handler.is_running and matches(message, handler.match):
                handler.call(message)
                taken = True
                if message.type != EVENT:
                    break
        return taken


def dispatch_of(handle: Handle) -> Dispatch:
    """The dispatcher of a handle."""
    found = handle.aux.get("dispatch")
    if found is None:
        found = handle.aux["dispatch"] = Dispatch(handle)
    assert isinstance(found, Dispatch)
    return found


class MessageHandler:
    """A ``flux_msg_handler_t``. Handlers of one method stack up: the newest serves."""

    ctype = ctype("flux_msg_handler_t *")

    def __init__(self, handle: Handle, match: Any, callback: Any, argument: Any) -> None:
        self.match = match
        self.rolemask = ROLE_OWNER
        self.is_running = False
        self._dispatch = dispatch_of(handle)
        self._callback = callback
        self._argument = Argument(argument)
        topic = text(match.topic_glob)
        if match.typemask == REQUEST and topic and not _GLOBS & set(topic):
            self._list = self._dispatch.methods.setdefault(topic, [])
            self._list.append(self)
        else:
            self._list = self._dispatch.handlers
            self._list.insert(0, self)

    def call(self, message: Message) -> None:
        """Call back, if the sender may call us."""
        if message.rolemask & self.rolemask:
            argument = self._argument.get()
            if argument is not None:
                self._callback(self._dispatch.handle, self, message, argument)
        elif message.type == REQUEST:
            owner_only = self.rolemask in (0, ROLE_OWNER)
            words = (
                "Request requires owner credentials"
                if owner_only
                else "Request rejected due to insufficient privilege"
            )
            respond(self._dispatch.handle, message, f"{words}\0".encode(), errno.EPERM)

    def start(self) -> None:
        """Take messages."""
        if not self.is_running:
            self.is_running = True
            self._dispatch.hold()

    def stop(self) -> None:
        """Take no more messages."""
        if self.is_running:
            self.is_running = False
            self._dispatch.release()

    def destroy(self) -> None:
        """Take no more messages for good."""
        self.stop()
        if self in self._list:
            self._list.remove(self)


@function("flux_t *, struct flux_match, flux_msg_handler_f *, void * -> flux_msg_handler_t *")
def flux_msg_handler_create(h: Handle, match: Any, cb: Any, arg: Any) -> Any:
    """Make a message handler: flux_msg_handler_create(3)."""
    return fail(errno.EINVAL, NULL) if cb is NULL else MessageHandler(h, match, cb, arg)


@function("flux_msg_handler_t * -> void")
def flux_msg_handler_destroy(mh: Any) -> None:
    """Stop a message handler for good: flux_msg_handler_create(3)."""
    if mh is not NULL:
        mh.destroy()


@function("flux_msg_handler_t * -> void")
def flux_msg_handler_start(mh: MessageHandler) -> None:
    """Start a message handler: flux_msg_handler_create(3)."""
    mh.start()


@function("flux_msg_handler_t * -> void")
def flux_msg_handler_stop(mh: Any) -> None:
    """Stop a message handler: flux_msg_handler_create(3)."""
    if mh is not NULL:
        mh.stop()


@function("flux_msg_handler_t *, uint32_t -> void")
def flux_msg_handler_allow_rolemask(mh: MessageHandler, rolemask: int) -> None:
    """Let more roles call a handler: flux_msg_handler_create(3)."""
    mh.rolemask |= rolemask


@function("flux_msg_handler_t *, uint32_t -> void")
def flux_msg_handler_deny_rolemask(mh: MessageHandler, rolemask: int) -> None:
    """Let fewer roles call a handler; the owner always may: flux_msg_handler_create(3)."""
    mh.rolemask = mh.rolemask & ~rolemask | ROLE_OWNER


@function("flux_t * -> int")
def flux_dispatch_requeue(h: Handle) -> int:
    """Give back what a clone did not want: flux_msg_handler_create(3)."""
    dispatch_of(h).requeue()
    return 0


@function("flux_t * -> flux_watcher_t *")
def flux_get_handle_watcher(h: Handle) -> Any:
    """The watcher that takes messages from a handle: flux_handle_watcher_create(3)."""
    return dispatch_of(h)._watcher
