"""`config`: the broker's TOML configuration. Rank 0 may change it; the others follow."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.protocol.message import Message

_CRIT, _ERR, _DEBUG = 2, 3, 7


class ConfigService(Service):
    """Reads and replaces the configuration object."""

    name = "config"

    def follow(self, post: Callable[[str], None]) -> None:
        """Take over the parent's configuration, now and whenever it changes; ``post`` gets the first one's event."""
        waiting = [post]

        def changed(message: Message) -> None:
            event = self._take_from_parent(message)
            while waiting:
                waiting.pop()(event)

        self.broker.router.rpc("config.get", None, changed, upstream=True, streaming=True)

    def _take_from_parent(self, message: Message) -> str:
        if message.errnum:
            error = FluxError(message.errnum, message.text())
            if not self.broker.is_online:
                self._log(_CRIT, f"parent update: {error.text or error.strerror}")
            return "sync-fail"
        config = message.json()
        if config == self.broker.config:
            self._log(_DEBUG, "parent update ignored: no change")
            return "sync-success"
        try:
            self._take(config)
        except FluxError as error:
            self._log(_ERR, f"parent update: {error.text}")
            return "sync-fail"
        self._log(_DEBUG, "parent update applied")
        return "sync-success"

    def _take(self, config: dict[str, Any]) -> None:
        """Have every service agree, then replace the configuration, and tell who follows it."""
        for service in [*self.broker.services, *self.broker.parts.values()]:
            if isinstance(service, Service):
                try:
                    service.configure(config)
                except FluxError as error:
                    raise FluxError(error.errnum, f"error updating {service.name}: {error.text}") from None
        self.broker.config = config
        for request in list(self.held):
            request.respond(config)

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer | _Later:
        """→ the whole object, ``{}`` where nothing is configured; streaming: again at each change."""
        if not request.message.is_streaming:
            return self.broker.config
        request.respond(self.broker.config)
        return self.hold(request)

    def _require_rank_0(self) -> None:
        if self.broker.rank > 0:
            raise FluxError(errno.EINVAL, "configuration can only be changed on rank 0")

    @method("load")
    def load(self, request: Request) -> Answer:
        """``{...}``: a new object. EINVAL where a service refuses it."""
        config = request.json()
        self._require_rank_0()
        if config != self.broker.config:
            self._take(config)
        return None

    @method("reload")
    def reload(self, request: Request) -> Answer:
        """Read the files again, if there are any."""
        self._require_rank_0()
        path = self.broker.attributes.get("config.path")
        if path is not None:
            from pytest_flux.broker.config import ConfigError, load_config

            try:
                config = load_config(path)
            except ConfigError as error:
                raise FluxError(errno.EINVAL, f"Config file error: {error}") from None
            if config != self.broker.config:
                self._take(config)
        return None

    def _log(self, severity: int, text: str) -> None:
        self.broker.log.write(severity, text, self.name)
