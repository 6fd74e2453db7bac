"""`kvs` and `kvs-watch` on the ranks that do not have the store."""

from __future__ import annotations

from pytest_flux.broker.service import Service
from pytest_flux.protocol.message import FLAG_UPSTREAM, Message

# What every service answers for itself, wherever it is.
_OWN = frozenset(("ping", "rusage", "debug", "config-reload", "stats-clear"))


class RelayService(Service):
    """Passes requests on towards rank 0, those also that were meant for this rank.

    flux-core keeps a copy of the tree on every rank, which saves the way. On one machine the way is short, and who
    reads from the one store never reads what is old. Clients that go are reported to rank 0 the same way.
    """

    def receive(self, message: Message) -> None:
        """Answer, or pass on."""
        if (message.topic or "").partition(".")[2] in _OWN:
            super().receive(message)
            return
        message.aux1 = self.router.rank
        message.flags |= FLAG_UPSTREAM
        self.router.request(message)


class KvsRelayService(RelayService):
    """`kvs`."""

    name = "kvs"


class KvsWatchRelayService(RelayService):
    """`kvs-watch`."""

    name = "kvs-watch"
