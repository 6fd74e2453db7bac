"""The bootstrap methods: each is a store of keys and values, with a rank and a size.

``simple`` is :class:`pytest_flux.broker.boot.pmi_client.PmiClient`; ``single`` and ``config`` need no server.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pytest_flux.broker.boot.bizcard import Bizcard
from pytest_flux.broker.boot.pmi_client import BootError, PmiClient, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

__all__ = ["DEFAULT_METHODS", "BootError", "Refused", "Store", "open_store"]

DEFAULT_METHODS = "config simple libpmi2 libpmi single"


class Store(Protocol):
    """A store, and this broker's rank in the instance, which is known once it is initialized.

    All methods raise Refused for an answer with an error code, and BootError if the server is lost.
    """

    @property
    def method(self) -> str:
        """Which of the methods this is."""

    @property
    def name(self) -> str:
        """The name that the server gives the store."""

    @property
    def rank(self) -> int:
        """The rank of this broker."""

    @property
    def size(self) -> int:
        """The number of brokers."""

    @property
    def hosts(self) -> Sequence[Mapping[str, str]]:
        """The configured brokers in the order of ranks, ``{host, bind?, connect?, parent?}`` each."""

    def initialize(self) -> None:
        """Begin the conversation."""

    def get(self, key: str) -> str:
        """The value of ``key``."""

    def get_many(self, keys: Sequence[str]) -> list[str | None]:
        """The values of many keys, None for a missing one."""

    def put(self, key: str, value: str) -> None:
        """Set ``key``, for others to see after the next barrier."""

    def barrier(self) -> None:
        """Wait until all brokers are here."""

    def finalize(self) -> None:
        """End the conversation, and close the connection."""

    def abort(self, code: int, message: str) -> None:
        """Ask that all brokers be killed, for the reason ``message``; without waiting for it."""

    def close(self) -> None:
        """Drop the conversation."""


class _LocalStore:
    """The method ``single``: a private store in place of a PMI server."""

    method = name = "single"
    hosts: Sequence[Mapping[str, str]] = ()
    rank = 0
    size = 1

    def __init__(self) -> None:
        self._kvs: dict[str, str] = {}

    def initialize(self) -> None:
        pass

    def get(self, key: str) -> str:
        if key not in self._kvs:
            raise Refused("key not found")
        return self._kvs[key]

    def get_many(self, keys: Sequence[str]) -> list[str | None]:
        return [self._kvs.get(key) for key in keys]

    def put(self, key: str, value: str) -> None:
        self._kvs[key] = value

    def barrier(self) -> None:
        pass

    def finalize(self) -> None:
        pass

    def abort(self, code: int, message: str) -> None:
        print(message, file=sys.stderr)

    def close(self) -> None:
        pass


class _ConfigStore(_LocalStore):
    """The business cards that the ``[bootstrap]`` table implies."""

    method = name = "config"

    def __init__(self, config: dict[str, Any], hostname: str) -> None:
        if "bootstrap" not in config:
            raise BootError("bootstrap configuration not found")
        super().__init__()
        self._config = config
        self._hostname = hostname

    def initialize(self) -> None:
        from pytest_flux.broker.boot.table import bootstrap_hosts
        from pytest_flux.broker.config import ConfigError

        # Not earlier: whoever writes such a table wants this method, and no other if it has mistakes.
        try:
            table = bootstrap_hosts(self._config, self._hostname)
        except ConfigError as error:
            raise BootError(str(error)) from None
        if table is None:
            return
        self.rank, self.size, self.hosts = table.rank, table.size, table.hosts
        for rank, host in enumerate(self.hosts):
            uris = (host["connect"],) if "connect" in host else ()
            self.put(str(rank), Bizcard(host["host"], uris).encode())


def open_store(method: str, environ: Mapping[str, str], config: dict[str, Any], hostname: str) -> Store:
    """The store of ``method``, not yet initialized. Raises BootError if its prerequisites are missing."""
    name = method.partition(":")[0]
    if name == "config":
        return _ConfigStore(config, hostname)
    if name == "simple":
        return PmiClient(environ)
    if name == "single":
        return _LocalStore()
    if name in ("libpmi", "libpmi2"):
        raise BootError("the embedded broker loads no PMI library: use simple, or install flux-core")
    raise BootError(f"plugin matching '{method}' not found")
