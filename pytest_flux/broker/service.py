"""Services: each has a name, methods, and requests that it answers now, later, or many times."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import (
    ROLE_LOCAL,
    ROLE_OWNER,
    ROLE_USER,
    Message,
    encode_json,
    encode_text,
)
from pytest_flux.protocol.severity import LOG_ERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeAlias, TypeVar, overload

    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router

    T = TypeVar("T")
    H = TypeVar("H", bound="Handler")

ALL = ROLE_OWNER | ROLE_USER
OWNER = ROLE_OWNER
Answer: TypeAlias = "dict[str, Any] | None"


class _Later:
    """Type of LATER."""


LATER = _Later()
"""A handler returns this if it keeps the request to answer it later."""

_REQUIRED: Any = object()


class Request:
    """A request on its way to an answer."""

    __slots__ = ("_json", "_respond", "message")

    def __init__(self, message: Message, respond: Callable[[Message], None]) -> None:
        self.message = message
        self._respond = respond
        self._json: dict[str, Any] | None = None

    @property
    def topic(self) -> str:
        """Service and method, with a dot between them."""
        return self.message.topic or ""

    @property
    def sender(self) -> str:
        """Identifies the client that asked: the first hop, across ranks too."""
        return self.message.routes[0] if self.message.routes else ""

    @property
    def is_owner(self) -> bool:
        """Whether the instance owner asks."""
        return bool(self.message.rolemask & ROLE_OWNER)

    def json(self) -> dict[str, Any]:
        """The payload. ProtocolError if it is missing or not a JSON object."""
        if self._json is None:
            self._json = self.message.json()
        return self._json

    if TYPE_CHECKING:

        @overload
        def field(self, name: str, kind: type[T]) -> T: ...
        @overload
        def field(self, name: str, kind: type[T], default: None) -> T | None: ...
        @overload
        def field(self, name: str, kind: type[T], default: T) -> T: ...

    def field(self, name: str, kind: type[T], default: Any = _REQUIRED) -> Any:
        """A member of the payload, checked for its JSON type; ProtocolError if it is wrong or missing."""
        if default is not _REQUIRED and not self.message.payload:
            return default
        value = self.json().get(name, _REQUIRED)
        if value is _REQUIRED:
            if default is _REQUIRED:
                raise ProtocolError(f"'{name}' is missing", self.topic)
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ProtocolError(f"'{name}' is not of type {kind.__name__}", self.topic)
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                # It may become part of a topic, a key or a log, which then nobody could read.
                raise ProtocolError(f"'{name}' is not Unicode", self.topic) from None
        return value

    def respond(self, payload: dict[str, Any] | bytes | None = None) -> None:
        """Answer with success; more than once if the request is streaming."""
        self._send(encode_json(payload) if isinstance(payload, dict) else payload, 0)

    def error(self, errnum: int, text: str | None = None) -> None:
        """Answer with an error (RFC 6), which ends a streaming request."""
        self._send(encode_text(text), errnum)

    def finish(self) -> None:
        """The normal end of a streaming request."""
        self.error(errno.ENODATA)

    def _send(self, payload: bytes | None, errnum: int) -> None:
        if self.message.wants_response:
            response = self.message.response(payload, errnum)
            response.userid, response.rolemask = os.getuid(), ROLE_OWNER | ROLE_LOCAL
            self._respond(response)


Handler: TypeAlias = "Callable[[Any, Request], Answer | bytes | _Later]"
_OF_MODULES = frozenset(("ping", "rusage", "stats_clear", "config_reload", "debug"))


def method(name: str, *, roles: int = OWNER) -> Callable[[H], H]:
    """Mark a handler of ``<service>.<name>``, open to ``roles``.

    It returns the answer's payload (None for an empty one) or LATER, or raises FluxError.
    """

    def mark(handler: H) -> H:
        handler._method = (name, roles)  # type: ignore[attr-defined]
        return handler

    return mark


class Service:
    """Base of all services of the broker; ``name`` is the word before the dot of its topics.

    ``is_module`` says that flux-core has a broker module of that name. Those answer pings and the like, and
    ``module.list`` names them. The others are parts of flux-core's broker proper and have no such methods.
    """

    name = ""
    is_module = True
    _methods: ClassVar[dict[str, tuple[Handler, int]]] = {}

    def __init__(self, router: Router, log: BrokerLog) -> None:
        self.router = router
        self.held: dict[Request, None] = {}
        self.received = 0
        self._debug_flags = 0
        self._log = log

    def log(self, severity: int, text: str) -> None:
        """Log in the name of this service."""
        self._log.write(severity, text, self.name)

    def __init_subclass__(cls) -> None:
        # For the class, not for each instance: brokers are forked and share what exists before.
        cls._methods = {}
        for attribute in dir(cls):
            handler = getattr(cls, attribute)
            marked = getattr(handler, "_method", None)
            if marked is not None and (cls.is_module or attribute not in _OF_MODULES):
                cls._methods[marked[0]] = (handler, marked[1])

    def receive(self, message: Message) -> None:
        """Handle one request for this service."""
        self.received += 1
        respond = self.router.respond
        if self.router.tracers and self.is_module:
            self._trace("rx", message)
            respond = self._respond_traced
        request = Request(message, respond)
        try:
            handler, roles = self._find(request)
            if not request.message.rolemask & roles:
                raise FluxError(errno.EPERM, "Request requires owner credentials")
            answer = handler(self, request)
            if not isinstance(answer, _Later):
                request.respond(answer)
        except FluxError as error:
            # The text of the number itself is nothing that the client would not know (RFC 6).
            request.error(error.errnum, error.text if error.text != os.strerror(error.errnum) else None)
        except ProtocolError as error:
            request.error(errno.EPROTO, f"{os.strerror(errno.EPROTO)}: {error}")
        except Exception:  # noqa: BLE001
            import traceback

            # A bug in one handler must not end the instance; the client gets an error.
            self.log(LOG_ERR, f"{request.topic}: {traceback.format_exc()}")
            request.error(errno.EIO, "internal error, see the broker's log")

    def _trace(self, prefix: str, message: Message) -> None:
        for tracer in list(self.router.tracers):
            tracer(prefix, -1, message, self.name)

    def _respond_traced(self, message: Message) -> None:
        self._trace("tx", message)
        self.router.respond(message)

    def _find(self, request: Request) -> tuple[Handler, int]:
        _, _, wanted = request.topic.partition(".")
        try:
            return self._methods[wanted]
        except KeyError:
            raise FluxError(errno.ENOSYS, f"Unknown service method '{request.topic}'") from None

    def hold(self, request: Request) -> _Later:
        """Keep a request that will be answered, or answered again, later."""
        self.held[request] = None
        return LATER

    def held_for(self, topic: str) -> Iterator[Request]:
        """The kept requests of one topic, safe to release while iterating."""
        return iter([request for request in self.held if request.topic == topic])

    def release(self, request: Request) -> None:
        """Stop keeping a request."""
        self.held.pop(request, None)

    def abandoned(self, request: Request) -> None:
        """Override this to clean up when the client of a kept request has disconnected or cancelled it."""

    def end(self) -> None:
        """Answer everybody who waits, because the module of this service is removed."""
        for request in list(self.held):
            self.release(request)
            self.abandoned(request)
            request.error(errno.ENOSYS)

    @method("disconnect", roles=ALL)
    def disconnect(self, request: Request) -> Answer:
        """Drop the kept requests of a client that has disconnected."""
        for kept in [kept for kept in self.held if kept.sender == request.sender]:
            self.release(kept)
            self.abandoned(kept)
        return None

    @method("cancel", roles=ALL)
    def cancel(self, request: Request) -> Answer:
        """End the kept request with the given matchtag of the same client (RFC 6 says ENODATA)."""
        matchtag = request.field("matchtag", int)
        for kept in [k for k in self.held if k.sender == request.sender and k.message.matchtag == matchtag]:
            self.release(kept)
            self.abandoned(kept)
            kept.finish()
        return None

    @method("ping", roles=ALL)
    def ping(self, request: Request) -> Answer:
        """The payload back, with the way it came (as flux-core's libflux/method.c)."""
        message = request.message
        hops = [route[:8] for route in message.routes or ()] + [self.router.uuid[:8]]
        return {
            **request.json(),
            "route": "!".join(hops),
            "userid": message.userid,
            "rolemask": message.rolemask,
            "rank": self.router.rank,
        }

    @method("rusage", roles=ALL)
    def rusage(self, request: Request) -> Answer:
        """getrusage(2) of the broker or its children."""
        who = request.field("who", str, "self")
        known = {"self": resource.RUSAGE_SELF, "children": resource.RUSAGE_CHILDREN}
        if who not in known:
            raise FluxError(errno.EINVAL, f"unknown target '{who}'")
        usage = resource.getrusage(known[who])
        return {key[3:]: value for key in dir(usage) if key.startswith("ru_") for value in (getattr(usage, key),)}

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """Statistics of this service; counts of messages unless overridden. Every request has one response here."""
        if not self.is_module:
            raise FluxError(errno.ENOSYS, f"Unknown service method '{request.topic}'")
        return {
            "tx": {"request": 0, "response": self.received, "event": 0, "control": 0},
            "rx": {"request": self.received, "response": 0, "event": 0, "control": 0},
        }

    @method("stats-clear")
    def stats_clear(self, request: Request) -> Answer:
        """Forget statistics."""
        self.received = 0
        return None

    def configure(self, config: dict[str, Any]) -> None:
        """Take over a new configuration, whose tables were checked. Services that use it override this."""

    @method("config-reload")
    def config_reload(self, request: Request) -> Answer:
        """``{...}``: a new configuration, for this service alone."""
        from pytest_flux.broker.config import TableError, check_tables

        try:
            check_tables(request.json(), module=self.name)
        except TableError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        self.configure(request.json())
        return None

    @method("debug")
    def debug(self, request: Request) -> Answer:
        """Set and return debug flags. Those that a service does not look at have no effect."""
        operations: dict[str, Callable[[int, int], int]] = {
            "setbit": lambda old, new: old | new,
            "clrbit": lambda old, new: old & ~new,
            "set": lambda old, new: new,
            "clr": lambda old, new: 0,
        }
        operation = operations.get(request.field("op", str))
        if operation is None:
            raise ProtocolError("unknown 'op'", request.topic)
        self._debug_flags = operation(self._debug_flags, request.field("flags", int))
        return {"flags": self._debug_flags}

    def take_debug_flag(self, flag: int) -> bool:
        """Clear a debug flag; whether it was set."""
        was_set = bool(self._debug_flags & flag)
        self._debug_flags &= ~flag
        return was_set


class LazyService:
    """Stands in the router for a service that ``make`` imports and makes when it gets its first request.

    ``module`` is the name of the module that provides it, if there is one: it is in the router from ``enable`` to
    ``disable``. ``service`` is that service, or None until the first request.
    """

    def __init__(self, name: str, router: Router, make: Callable[[], Service], module: str | None = None) -> None:
        self.name = name
        self.module = module
        self.service: Service | None = None
        self._router = router
        self._make = make

    def receive(self, message: Message) -> None:
        """Pass the first request on to the service, which receives the following ones itself.

        If it cannot be made, on a full disk for example, the request gets the error, and the next one tries again.
        """
        try:
            service = self.load()
        except OSError as error:
            text = error.text if isinstance(error, FluxError) else str(error)
            self._router.refuse(message, error.errno or errno.EIO, text)
            return
        service.receive(message)

    def load(self) -> Service:
        """Make the service and let it take this one's place."""
        if self.service is None:
            self.service = self._make()
            self._router.services[self.name] = self.service.receive
        return self.service

    def enable(self) -> None:
        """Put it into the router. FluxError EEXIST if a client has registered the name."""
        self._router.add_service(self.name, self.receive)

    def disable(self) -> None:
        """Take it out of the router; those who wait for it get ENOSYS."""
        self._router.services.pop(self.name, None)
        self._end()

    def renew(self) -> None:
        """Make the service anew with the next request, because a part that it uses was replaced."""
        if self.service is not None:
            self._router.services[self.name] = self.receive
            self._end()

    def _end(self) -> None:
        if self.service is not None:
            self.service.end()
            self.service = None
