"""`module`: loads, removes and lists modules, all of which are built in (see broker/modules.py)."""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.modules import BUILTINS, MODULES
from pytest_flux.broker.overlay.trace import Tracer
from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_ERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.parts import Parts
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.clock import Clock

_RUNNING = 1
_REFUSE_ONE, _DEMOTE_ONE = 1, 4
"""Debug flags of connector-local, as in flux-core's local.c."""
_WAY_OUT = "an embedded broker has its modules built in: install flux-core for others"


class ModuleService(Service):
    """``service_names`` returns the services that are the broker's: all others are clients'."""

    name = "module"
    is_module = False

    def __init__(
        self, router: Router, log: BrokerLog, parts: Parts, service_names: Callable[[], set[str]], clock: Clock
    ) -> None:
        super().__init__(router, log)
        self._parts = parts
        self._modules = parts.modules
        self._service_names = service_names
        self._clock = clock
        self._tracers: dict[Request, Tracer] = {}

    @method("list", roles=ALL)
    def list_modules(self, request: Request) -> Answer:
        """→ ``{mods: [{name, path, idle, status, services, sendqueue, recvqueue}]}``."""
        # Services of clients are reached through the connector.
        clients = sorted(self.router.services.keys() - self._service_names())
        extra = {ConnectorService.name: clients}
        return {
            "mods": [
                {
                    "name": name,
                    "path": "builtin",
                    "idle": 0,
                    "status": _RUNNING,
                    "services": [name, *(MODULES[name].services if name in MODULES else extra.get(name, ()))],
                    "sendqueue": 0,
                    "recvqueue": 0,
                }
                for name in (*BUILTINS, *self._modules.names())
            ]
        }

    @method("load")
    def load(self, request: Request) -> Answer:
        """``{path, args, name?, exec?, loader?}`` → empty; ``path`` is the name of a module that is built in."""
        path, arguments = request.field("path", str), request.field("args", list)
        name = request.field("name", str, None) or path
        if path in BUILTINS:
            raise FluxError(errno.EEXIST)
        if "/" in path:
            raise FluxError(errno.ENOTSUP, f"{os.path.basename(path)}: {_WAY_OUT}")
        if path not in MODULES:
            raise FluxError(errno.ENOENT, f"module not found in search path ({_WAY_OUT})")
        if name != path:
            raise FluxError(errno.ENOTSUP, f"{path} cannot be loaded as {name}: {_WAY_OUT}")
        try:
            self._parts.load(name, arguments)
        except FluxError as error:
            if error.text and error.text != os.strerror(error.errnum):
                self._log.write(LOG_ERR, error.text, name)
            raise
        self._log.write(LOG_DEBUG, f"insmod {name}")
        return None

    @method("remove")
    def remove(self, request: Request) -> Answer:
        """``{name, cancel?}`` → empty. ENOENT if it is not loaded, EPERM if it is part of every broker."""
        name = request.field("name", str)
        self._parts.remove(name)
        self._log.write(LOG_DEBUG, f"rmmod {name}")
        self._log.write(LOG_DEBUG, f"module {name} exited")
        return None

    @method("debug")
    def debug_module(self, request: Request) -> Answer:
        """``{name, defer?}``: ENOENT for an unknown module; there are no queues to defer."""
        name = request.field("name", str)
        request.field("defer", bool, default=False)
        if name not in BUILTINS and name not in self._modules:
            raise FluxError(errno.ENOENT)
        return None

    @method("trace")
    def trace(self, request: Request) -> _Later:
        """``{names, typemask, topic_glob, full?}`` → each request to a module, and each response from it."""
        request.field("names", list)
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO)
        self._tracers[request] = Tracer(request, self._clock)
        self.router.tracers.append(self._tracers[request])
        return self.hold(request)

    def abandoned(self, request: Request) -> None:
        """End the trace of a client that has disconnected or cancelled."""
        tracer = self._tracers.pop(request, None)
        if tracer is not None:
            self.router.tracers.remove(tracer)

    @method("status")
    def status(self, request: Request) -> Answer:
        """``{status, errnum?}``, from a module about itself. Who sends it here is none."""
        try:
            request.field("status", int)
        except ProtocolError:
            raise FluxError(errno.EPROTO, "error decoding module.status request") from None
        return None


class ConnectorService(Service):
    """`connector-local`: who may connect. The connections are in :mod:`pytest_flux.broker.local`."""

    name = "connector-local"

    def configure(self, config: dict[str, Any]) -> None:
        """Tell who may connect from now on."""
        access = config.get("access", {})
        for key in ("allow-guest-user", "allow-root-owner"):
            self.log(LOG_DEBUG, f"{key}={str(access.get(key) is True).lower()}")

    def refuses(self, uid: int) -> bool:
        """Whether a debug flag asks to refuse this connection; only this one."""
        refused = self.take_debug_flag(_REFUSE_ONE)
        if refused:
            self.log(LOG_ERR, f"connect by uid={uid} denied by debug flag")
        return refused

    def demotes(self) -> bool:
        """Whether a debug flag asks to take an owner who connects for a guest; only this one."""
        return self.take_debug_flag(_DEMOTE_ONE)
