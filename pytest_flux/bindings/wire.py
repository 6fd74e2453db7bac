"""The connection to a broker: bytes out, messages in. It is shared by a handle and its clones."""

from __future__ import annotations

import errno
import os
import select
from collections import deque

from pytest_flux.client.connector import connect
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import ROLE_LOCAL, ROLE_NONE, ROLE_OWNER, USERID_UNKNOWN, Message

_CHUNK = 1 << 16


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
