"""Handles: flux-core's ``handle.c``, with its connectors ``local`` (and ``ssh``) and ``loop``."""

from __future__ import annotations

import errno
import os
import select
from collections import deque
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
from pytest_flux.bindings.ffi import NULL, ctype, fail, register, set_error, text
from pytest_flux.bindings.library import function
from pytest_flux.bindings.reactor import Reactor
from pytest_flux.client.connector import connect, default_uri
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import ROLE_LOCAL, ROLE_NONE, ROLE_OWNER, USERID_UNKNOWN, Message

_CHUNK = 1 << 16
_OPEN_FLAGS = 127

register(Message, "flux_msg_t *")


class Wire:
    """The connection to a broker, shared by a handle and its clones, and the messages that came over it.

    ``error`` is the errno that ended it; the messages that came before can still be taken.
    """

    def __init__(self, uri: str) -> None:
        self.messages: deque[Message] = deque()
        self.error = 0
        self._decoder = FrameDecoder()
        self._userid = int(os.environ.get("FLUX_HANDLE_USERID", USERID_UNKNOWN))
        self._rolemask = int(os.environ.get("FLUX_HANDLE_ROLEMASK", str(ROLE_NONE)), 0)
        self._last_matchtag = 0
        self._socket = connect(uri)
        try:
            # The broker greets with one byte, 0 or an errno (RFC 12).
            greeting = self._socket.recv(1)
            if not greeting or greeting[0]:
                raise OSError(greeting[0] if greeting else errno.ECONNRESET, "the broker refuses us")
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def matchtag(self) -> int:
        """A matchtag that no other request of this connection has: there are as many as 32 bits have room for."""
        self._last_matchtag = self._last_matchtag % 0xFFFFFFFF + 1
        return self._last_matchtag

    def send(self, message: Message) -> None:
        """Send a message; waits while the broker does not take it. Raises OSError."""
        if self._userid != USERID_UNKNOWN or self._rolemask != ROLE_NONE:
            message = message.copy()
            message.userid, message.rolemask = self._userid, self._rolemask
        data = encode_frame(message)
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._wait_until_writable()

    def _wait_until_writable(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        if any(flags & select.POLLIN for _, flags in poll.poll()):
            self.read()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until something comes, ``timeout`` seconds at most."""
        if not self.error and self._poll.poll(None if timeout is None else timeout * 1000 + 1):
            self.read()

    def read(self) -> None:
        """Read what is there; an error goes into ``error``."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.error = error.errno or errno.ECONNRESET
            return
        if not data:
            self.error = errno.ECONNRESET
            return
        try:
            self.messages.extend(self._decoder.feed(data))
        except ProtocolError:
            self.error = errno.EPROTO


class LoopWire(Wire):
    """The connector ``loop``: what is sent is received."""

    def __init__(self) -> None:
        self.messages = deque()
        self.error = 0
        self._last_matchtag = 0

    def fileno(self) -> int:
        """There is none."""
        return -1

    def close(self) -> None:
        """There is nothing to close."""

    def send(self, message: Message) -> None:
        """Receive a message as the owner of the instance would have sent it."""
        sent = message.copy()
        if sent.userid == USERID_UNKNOWN:
            sent.userid = os.getuid()
        if sent.rolemask == ROLE_NONE:
            sent.rolemask = ROLE_OWNER | ROLE_LOCAL
        self.messages.append(sent)

    def wait(self, timeout: float | None = None) -> None:
        """Nothing can come while we wait."""
        self.error = self.error or errno.EDEADLK


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


# -- opening and closing


def open_handle(uri: str | None, flags: int = 0) -> Handle:
    """A handle for a URI, or for a path of instances (``..``). Raises OSError, ValueError."""
    if uri is None:
        uri = default_uri()
    elif uri.startswith((".", "/")):
        from pytest_flux.bindings.attr import ancestor_uri

        uri = ancestor_uri(uri)
    scheme = uri.partition("://")[0]
    if scheme == "loop":
        return Handle(LoopWire(), flags)
    if scheme not in ("local", "ssh"):
        raise OSError(errno.ENOENT, f"Unable to find connector name '{scheme}'")
    try:
        return Handle(Wire(uri), flags)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f"broker socket {uri.partition('://')[2]} was not found") from None
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None


@function("char *, int, flux_error_t * -> flux_t *")
def flux_open_ex(uri: Any, flags: int, error: Any) -> Any:
    """Connect to a broker, with a text if that fails: flux_open(3)."""
    if flags & ~_OPEN_FLAGS:
        set_error(error, "invalid flags specified")
        return fail(errno.EINVAL, NULL)
    try:
        return open_handle(text(uri), flags)
    except OSError as failure:
        set_error(error, failure.strerror or str(failure))
        return fail(failure.errno or errno.EIO, NULL)


@function("char *, int -> flux_t *")
def flux_open(uri: Any, flags: int) -> Any:
    """Connect to a broker: flux_open(3)."""
    return flux_open_ex(uri, flags, NULL)


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
    h.flags |= flags & _OPEN_FLAGS


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
