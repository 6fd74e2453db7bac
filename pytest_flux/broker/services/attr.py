"""`attr`: broker attributes."""

from __future__ import annotations

import errno

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.errors import FluxError


class AttrService(Service):
    """Reads and updates attributes by flux-core's rules."""

    name = "attr"
    is_module = False

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer:
        """``{name}`` → ``{value, flags}``; ENOENT where it is unknown or has no value."""
        name = request.field("name", str)
        value = self.broker.attributes.get(name)
        if value is None:
            raise FluxError(errno.ENOENT)
        return {"value": value, "flags": self.broker.attributes.flags(name) & 1}

    @method("list", roles=ALL)
    def list_names(self, request: Request) -> Answer:
        """→ ``{names}``."""
        return {"names": self.broker.attributes.names()}

    @method("set")
    def set(self, request: Request) -> Answer:
        """``{name, value, force?}`` → empty."""
        name, value = request.field("name", str), request.field("value", str)
        force = request.field("force", bool, False)
        if name == "log-stderr-level" and not force:
            self.broker.log.set_attribute(name, value)
        self.broker.attributes.update(name, value, force=force)
        return None

    @method("rm")
    def remove(self, request: Request) -> Answer:
        """``{name}`` → empty."""
        self.broker.attributes.delete(request.field("name", str))
        return None
