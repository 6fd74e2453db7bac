"""`module`: what stands for flux-core's broker modules. An embedded broker has them built in; none can be loaded."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.errors import FluxError

_RUNNING = 1
_BUILTIN = ("overlay", "config", "groups", "rexec", "connector-local")


class ModuleService(Service):
    """Lists the built-in modules, in flux-core's order."""

    name = "module"

    @method("list", roles=ALL)
    def list_modules(self, request: Request) -> Answer:
        """→ ``{mods: [{name, path, idle, status, services, sendqueue, recvqueue}]}``."""
        return {
            "mods": [
                {
                    "name": name,
                    "path": "builtin",
                    "idle": 0,
                    "status": _RUNNING,
                    "services": [],
                    "sendqueue": 0,
                    "recvqueue": 0,
                }
                for name in _BUILTIN
            ]
        }

    @method("load")
    def load(self, request: Request) -> Answer:
        """Refused: modules are compiled for flux-core's broker."""
        raise FluxError(errno.ENOSYS, "an embedded broker cannot load modules: install flux-core for that")


class ConnectorService(Service):
    """So that `connector-local` answers pings, as in flux-core."""

    name = "connector-local"
