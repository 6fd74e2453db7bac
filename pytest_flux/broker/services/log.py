"""`log`: append to the ring of this broker, and read it."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError


class LogService(Service):
    """The ring of this broker and its followers."""

    name = "log"
    is_module = False

    @method("append")
    def append(self, request: Request) -> Answer:
        """One raw line (RFC 5424 in Flux's dialect); never answered."""
        if request.message.payload:
            self._log.append(request.message.payload)
        return None

    @method("dmesg")
    def dmesg(self, request: Request) -> Answer | _Later:
        """``{follow, nobacklog?}`` → one line per response, as NUL-terminated string; ends with ENODATA."""
        follow = request.field("follow", bool)
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO)
        if not request.field("nobacklog", bool, False):
            for line in self._log.lines():
                request.respond(line + b"\0")
        if follow:
            return self.hold(request)
        request.finish()
        return LATER

    @method("clear")
    def clear(self, request: Request) -> Answer:
        """Empty the ring."""
        self._log.clear()
        return None

    @method("stats-get")
    def stats_get(self, request: Request) -> Answer:
        """→ ``{ring-used, count, local, remote}``."""
        return self._log.stats()

    @method("setattr")
    def setattr(self, request: Request) -> Answer:
        """``{name, value}``: a change of log-stderr-level."""
        self._log.set_attribute(request.field("name", str), request.field("value", str))
        return None

    def appended(self, line: bytes) -> None:
        """Send a new line of the ring to the followers."""
        for request in list(self.held):
            request.respond(line + b"\0")
