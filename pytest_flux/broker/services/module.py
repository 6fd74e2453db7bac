"""`module`: the services that are modules in flux-core. They are built in; modules cannot be loaded."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.service import LazyService

_RUNNING = 1

_SERVED_BY = {"content-backing": "content-sqlite", "feasibility": "sched-simple", "sched": "sched-simple"}
"""Services of flux-core's modules that are not called like these."""

_NO_MODULES = ("broker", "job-shell")


class ModuleService(Service):
    """Lists the services that are modules in flux-core."""

    name = "module"
    is_module = False

    def __init__(
        self, router: Router, log: BrokerLog, services: Callable[[], Sequence[Service | LazyService]]
    ) -> None:
        super().__init__(router, log)
        self._services = services

    def _names(self) -> dict[str, list[str]]:
        """Modules, and the services of each."""
        modules: dict[str, list[str]] = {}
        for service in self._services():
            if getattr(service, "is_module", True) and service.name not in _NO_MODULES:
                name = _SERVED_BY.get(service.name, service.name)
                modules.setdefault(name, [name]).extend([service.name] if name != service.name else [])
        return modules

    @method("list", roles=ALL)
    def list_modules(self, request: Request) -> Answer:
        """→ ``{mods: [{name, path, idle, status, services, sendqueue, recvqueue}]}``."""
        clients = sorted(self.router.services.keys() - {service.name for service in self._services()})
        return {
            "mods": [
                {
                    "name": name,
                    "path": "builtin",
                    "idle": 0,
                    "status": _RUNNING,
                    # Services of clients are reached through the connector.
                    "services": [*services, *clients] if name == ConnectorService.name else services,
                    "sendqueue": 0,
                    "recvqueue": 0,
                }
                for name, services in self._names().items()
            ]
        }

    @method("remove")
    def remove(self, request: Request) -> Answer:
        """``{name}``: ENOENT for an unknown module, EPERM for a built-in one."""
        raise FluxError(errno.EPERM if request.field("name", str) in self._names() else errno.ENOENT)

    @method("debug")
    def debug_module(self, request: Request) -> Answer:
        """``{name, defer?}``: ENOENT for an unknown module; there are no queues to defer."""
        if request.field("name", str) not in self._names():
            raise FluxError(errno.ENOENT)
        return None

    @method("load")
    def load(self, request: Request) -> Answer:
        """Refused: modules are compiled for flux-core's broker."""
        raise FluxError(errno.ENOSYS, "an embedded broker cannot load modules: install flux-core for that")


class ConnectorService(Service):
    """`connector-local`: who may connect. The connections are in :mod:`pytest_flux.broker.local`."""

    name = "connector-local"
