"""Handles: flux-core's ``handle.c``."""

from __future__ import annotations

import errno
import os
from fnmatch import fnmatchcase
from typing import Any

from pytest_flux.bindings.constants import (
    FLUX_O_CLONE,
    FLUX_O_NONBLOCK,
    FLUX_O_NOREQUEUE,
    FLUX_POLLERR,
    FLUX_POLLIN,
    FLUX_POLLOUT,
    FLUX_RQ_HEAD,
    FLUX_RQ_TAIL,
)
from pytest_flux.bindings.ffi import NULL, ctype, fail, register, text
from pytest_flux.bindings.library import function
from pytest_flux.bindings.reactor import Reactor
from pytest_flux.bindings.wire import Wire
from pytest_flux.protocol.message import Message

OPEN_FLAGS = 127

register(Message, "flux_msg_t *")


class Handle:
    """A ``flux_t``; ``aux`` is what others keep in it by name."""

    ctype = ctype("flux_t *")

    def __init__(self, wire: Wire, flags: int = 0) -> None:
        self.wire = wire
        self.flags = flags
        self.references = 1
        self.reactor: Reactor | None = None
        self.aux: dict[str, Any] = {}

    def is_clone(self) -> bool:
        """Whether another handle owns the connection."""
        return bool(self.flags & FLUX_O_CLONE)

    def get_reactor(self) -> Reactor:
        """The reactor of this handle, made when it is first asked for."""
        if self.reactor is None:
            self.reactor = Reactor()
        return self.reactor

    def clone(self, reactor: Reactor) -> Handle:
        """Another handle on the same connection, with a reactor of its own."""
        clone = Handle(self.wire, self.flags | FLUX_O_CLONE)
        clone.reactor = reactor
        # What is known of the broker holds for the clone, too.
        attributes = self.aux.get("attributes")
        if attributes is not None:
            clone.aux["attributes"] = attributes
        return clone

    def release(self) -> None:
        """Drop a reference; the last one closes the handle."""
        self.references -= 1
        if self.references == 0:
            dispatch = self.aux.pop("dispatch", None)
            if dispatch is not None:
                dispatch.close()
            self.aux.clear()
            if not self.is_clone():
                self.wire.close()

    def receive(self, match: Any, *, blocking: bool) -> Message | None:
        """Take the first message that matches; None if there is none. Raises OSError if the connection is lost."""
        messages = self.wire.messages
        position = 0
        while True:
            while position < len(messages):
                message = messages[position]
                if matches(message, match):
                    del messages[position]
                    return message
                position += 1
            if self.wire.error:
                raise OSError(self.wire.error, os.strerror(self.wire.error))
            self.wire.wait(None if blocking else 0)
            if position == len(messages) and not blocking and not self.wire.error:
                return None


def matches(message: Message, match: Any) -> bool:
    """Whether a message fits a ``struct flux_match`` (flux-core's flux_msg_cmp)."""
    if match.typemask and not message.type & match.typemask:
        return False
    if match.matchtag and (message.type not in (1, 2) or message.routes or message.matchtag != match.matchtag):
        return False
    glob = text(match.topic_glob)
    if not glob or glob == "*":
        return True
    return message.topic is not None and (message.topic == glob or fnmatchcase(message.topic, glob))


# -- references


@function("flux_t * -> void")
def flux_close(h: Any) -> None:
    """Drop a reference to a handle: flux_open(3)."""
    if h is not NULL:
        h.release()


@function("flux_t * -> flux_t *")
def flux_incref(h: Handle) -> Handle:
    """Take a reference to a handle: flux_open(3)."""
    h.references += 1
    return h


@function("flux_t * -> void")
def flux_decref(h: Handle) -> None:
    """Drop a reference to a handle: flux_open(3)."""
    h.release()


@function("flux_t * -> flux_t *")
def flux_clone(orig: Handle) -> Handle:
    """Make another handle on the same connection: flux_open(3)."""
    return orig.clone(Reactor())


@function("flux_t * -> int")
def flux_reconnect(h: Handle) -> int:
    """Connect anew: flux_comms_error_set(3). Nothing here does."""
    return int(fail(errno.ENOSYS))


# -- reactor, flags, auxiliary data


@function("flux_t * -> flux_reactor_t *")
def flux_get_reactor(h: Handle) -> Reactor:
    """The reactor of a handle: flux_get_reactor(3)."""
    return h.get_reactor()


@function("flux_t *, flux_reactor_t * -> int")
def flux_set_reactor(h: Handle, r: Reactor) -> int:
    """Give a handle a reactor: flux_get_reactor(3)."""
    if h.reactor is not None:
        return int(fail(errno.EEXIST))
    h.reactor = r
    return 0


@function("flux_t *, int -> void")
def flux_flags_set(h: Handle, flags: int) -> None:
    """Set flags: flux_flags_set(3)."""
    h.flags |= flags & OPEN_FLAGS


@function("flux_t *, int -> void")
def flux_flags_unset(h: Handle, flags: int) -> None:
    """Clear flags: flux_flags_set(3)."""
    h.flags &= ~flags


@function("flux_t * -> int")
def flux_flags_get(h: Handle) -> int:
    """The flags of a handle: flux_flags_set(3)."""
    return h.flags


@function("flux_t *, char * -> void *")
def flux_aux_get(h: Handle, name: Any) -> Any:
    """What was attached to a handle: flux_aux_set(3)."""
    found = h.aux.get(f"aux {text(name)}")
    return fail(errno.ENOENT, NULL) if found is None else found


@function("flux_t *, char *, void *, flux_free_f * -> int")
def flux_aux_set(h: Handle, name: Any, aux: Any, destroy: Any) -> int:
    """Attach something to a handle: flux_aux_set(3)."""
    if aux is NULL:
        h.aux.pop(f"aux {text(name)}", None)
    else:
        h.aux[f"aux {text(name)}"] = aux
    return 0


# -- messages


@function("flux_t * -> uint32_t")
def flux_matchtag_alloc(h: Handle) -> int:
    """A matchtag for a request: handle.h."""
    return h.wire.matchtag()


@function("flux_t *, uint32_t -> void")
def flux_matchtag_free(h: Handle, matchtag: int) -> None:
    """Give a matchtag back: handle.h. They are not used a second time here."""


@function("flux_t * -> uint32_t")
def flux_matchtag_avail(h: Handle) -> int:
    """The number of matchtags that are free: handle.h."""
    return 0xFFFFFFFF


def send(h: Handle, message: Message) -> int:
    """Send a message: 0, or -1 with errno set."""
    try:
        h.wire.send(message)
    except OSError as error:
        return int(fail(error.errno or errno.EPIPE))
    return 0


@function("flux_t *, flux_msg_t *, int -> int")
def flux_send(h: Handle, msg: Message, flags: int) -> int:
    """Send a message: flux_send(3)."""
    if flags & ~FLUX_O_NONBLOCK or not isinstance(msg, Message):
        return int(fail(errno.EINVAL))
    return send(h, msg)


@function("flux_t *, struct flux_match, int -> flux_msg_t *")
def flux_recv(h: Handle, match: Any, flags: int) -> Any:
    """Take a message that matches: flux_recv(3)."""
    if flags & ~FLUX_O_NONBLOCK:
        return fail(errno.EINVAL, NULL)
    try:
        message = h.receive(match, blocking=not (flags | h.flags) & FLUX_O_NONBLOCK)
    except OSError as error:
        return fail(error.errno or errno.ECONNRESET, NULL)
    return fail(errno.EWOULDBLOCK, NULL) if message is None else message


@function("flux_t *, flux_msg_t *, int -> int")
def flux_requeue(h: Handle, msg: Message, flags: int) -> int:
    """Put a message back: flux_requeue(3)."""
    if h.flags & FLUX_O_NOREQUEUE or flags not in (FLUX_RQ_HEAD, FLUX_RQ_TAIL):
        return int(fail(errno.EINVAL))
    if flags == FLUX_RQ_HEAD:
        h.wire.messages.appendleft(msg)
    else:
        h.wire.messages.append(msg)
    return 0


@function("flux_t * -> int")
def flux_pollevents(h: Handle) -> int:
    """What can be done with a handle now: flux_pollevents(3)."""
    if not h.wire.messages:
        h.wire.wait(0)
    ready = FLUX_POLLIN if h.wire.messages else 0
    return ready | (FLUX_POLLERR if h.wire.error else FLUX_POLLOUT)


@function("flux_t * -> int")
def flux_pollfd(h: Handle) -> int:
    """The descriptor that is readable when something comes: flux_pollevents(3)."""
    return h.wire.fileno()
