"""The store of an instance, with what its configuration says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flux.broker.kvs.api import Kvs
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.severity import LOG_ERR

if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor


def open_kvs(reactor: Reactor, content: ContentStore, router: Router, log: BrokerLog, config: dict[str, Any]) -> Kvs:
    """The store, on rank 0. A ``kvs.checkpoint-period`` that is no duration (RFC 23) is logged, and ignored."""

    def complain(text: str) -> None:
        log.write(LOG_ERR, text, "kvs")

    def publish(topic: str, payload: bytes) -> None:
        router.publish(topic, payload, private=True)

    kvs = Kvs(reactor, content, publish, complain)
    table = config.get("kvs", {})
    period = table.get("checkpoint-period") if isinstance(table, dict) else None
    if period is not None:
        try:
            seconds = parse_duration(period) if isinstance(period, str) else -1.0
        except ValueError:
            seconds = -1.0
        if seconds > 0:
            kvs.checkpoint_every(seconds)
        else:
            complain(f"invalid checkpoint-period config: {period}")
    return kvs
