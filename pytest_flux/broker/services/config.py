"""`config`: the broker's TOML configuration."""

from __future__ import annotations

import errno

from pytest_flux.broker.config import ConfigError, load_config
from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.errors import FluxError


class ConfigService(Service):
    """Reads and replaces the configuration object."""

    name = "config"

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer:
        """→ the whole object; ``{}`` where nothing is configured."""
        return self.broker.config

    @method("load")
    def load(self, request: Request) -> Answer:
        """``{...}``: a new object."""
        self.broker.take_config(request.json())
        return None

    @method("reload")
    def reload(self, request: Request) -> Answer:
        """Read the files again."""
        path = self.broker.attributes.get("config.path")
        if path is None:
            raise FluxError(errno.EINVAL, "broker was not started with a configuration path")
        try:
            self.broker.take_config(load_config(path))
        except ConfigError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return None
