"""`attr`: broker attributes."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router


class AttrService(Service):
    """Reads and updates attributes by flux-core's rules."""

    name = "attr"
    is_module = False

    def __init__(self, router: Router, log: BrokerLog, attributes: Attributes) -> None:
        super().__init__(router, log)
        self._attributes = attributes

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer:
        """``{name}`` → ``{value, flags}``; ENOENT where it is unknown or has no value."""
        name = request.field("name", str)
        value = self._attributes.get(name)
        if value is None:
            raise FluxError(errno.ENOENT)
        return {"value": value, "flags": self._attributes.flags(name) & 1}

    @method("list", roles=ALL)
    def list_names(self, request: Request) -> Answer:
        """→ ``{names}``."""
        return {"names": self._attributes.names()}

    @method("set")
    def set(self, request: Request) -> Answer:
        """``{name, value, force?}`` → empty."""
        name, value = request.field("name", str), request.field("value", str)
        force = request.field("force", bool, False)
        if name == "log-stderr-level" and not force:
            self._log.set_attribute(name, value)
        self._attributes.update(name, value, force=force)
        return None

    @method("rm")
    def remove(self, request: Request) -> Answer:
        """``{name}`` → empty."""
        self._attributes.delete(request.field("name", str))
        return None
