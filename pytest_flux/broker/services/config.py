"""`config`: the broker's TOML configuration. Rank 0 may change it; the others follow."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_CRIT, LOG_DEBUG, LOG_ERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.message import Message


class ConfigService(Service):
    """Reads and replaces ``config``, the one object that every part has. ``configure`` calls parts that keep more."""

    name = "config"

    def __init__(
        self,
        router: Router,
        log: BrokerLog,
        attributes: Attributes,
        config: dict[str, Any],
        configure: Callable[[dict[str, Any]], None],
        is_online: Callable[[], bool],
    ) -> None:
        super().__init__(router, log)
        self._attributes = attributes
        self._config = config
        self._configure = configure
        self._is_online = is_online

    def follow(self, post: Callable[[str], None]) -> None:
        """Take over the parent's configuration, now and whenever it changes; ``post`` gets the first one's event."""
        waiting = [post]

        def changed(message: Message) -> None:
            event = self._take_from_parent(message)
            while waiting:
                waiting.pop()(event)

        self.router.rpc("config.get", None, changed, upstream=True, streaming=True)

    def _take_from_parent(self, message: Message) -> str:
        if message.errnum:
            error = FluxError(message.errnum, message.text())
            if not self._is_online():
                self.log(LOG_CRIT, f"parent update: {error.text or error.strerror}")
            return "sync-fail"
        config = message.json()
        if config == self._config:
            self.log(LOG_DEBUG, "parent update ignored: no change")
            return "sync-success"
        try:
            self._take(config)
        except FluxError as error:
            self.log(LOG_ERR, f"parent update: {error.text}")
            return "sync-fail"
        self.log(LOG_DEBUG, "parent update applied")
        return "sync-success"

    def _take(self, config: dict[str, Any]) -> None:
        """Check the configuration, have the parts take it over, and send it to those who follow it."""
        from pytest_flux.broker.config import TableError, check_tables

        try:
            check_tables(config)
        except TableError as error:
            raise FluxError(errno.EINVAL, f"error updating {error.module}: {error}") from None
        self._configure(config)
        # In place: every part was given this one dictionary.
        self._config.clear()
        self._config.update(config)
        for request in list(self.held):
            request.respond(config)

    @method("get", roles=ALL)
    def get(self, request: Request) -> Answer | _Later:
        """→ the whole object, ``{}`` if nothing is configured; streaming: again at each change."""
        if not request.message.is_streaming:
            return self._config
        request.respond(self._config)
        return self.hold(request)

    def _require_rank_0(self) -> None:
        if self.router.rank > 0:
            raise FluxError(errno.EINVAL, "configuration can only be changed on rank 0")

    @method("load")
    def load(self, request: Request) -> Answer:
        """``{...}``: a new object. EINVAL if a service refuses it."""
        config = request.json()
        self._require_rank_0()
        if config != self._config:
            self._take(config)
        return None

    @method("reload")
    def reload(self, request: Request) -> Answer:
        """Read the files again, if there are any."""
        self._require_rank_0()
        path = self._attributes.get("config.path")
        if path is not None:
            from pytest_flux.broker.config import ConfigError, load_config

            try:
                config = load_config(path)
            except ConfigError as error:
                raise FluxError(errno.EINVAL, f"Config file error: {error}") from None
            if config != self._config:
                self._take(config)
        return None
