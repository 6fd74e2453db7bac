"""The quorum of an instance: how many brokers must be online for it to run, and which are. Used by rank 0."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset
from pytest_flux.protocol.severity import LOG_ERR, LOG_INFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.services.groups import GroupsService
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer


_GROUP = "broker.online"
_QUIET = 5.0
"""Seconds between two log lines about the online ranks while a large instance starts."""

# As C's strtoul reads it: the number at the beginning; the rest is ignored.
_NUMBER = re.compile(r"\s*\+?(\d+)")


def hosts(attributes: Attributes, ranks: Iterable[int]) -> str:
    """The host names of ranks, as a host list."""
    return encode_hostlist(attributes.host_of(rank) for rank in sorted(ranks))


class Quorum:
    """Watches which ranks are online. ValueError if ``broker.quorum`` is not a number from 1 to the size."""

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        log: BrokerLog,
        groups: GroupsService,
        state: Callable[[], str],
        post: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._attributes = attributes
        self._broker_log = log
        self._groups = groups
        self._state = state
        self._post = post
        self._online: set[int] = set()
        self._warned = False
        self._timer: Timer | None = None
        self._told = -_QUIET
        self.size = self._configured()

    def _configured(self) -> int:
        size = self._router.size
        value = self._attributes.setdefault("broker.quorum", str(size)) or ""
        # Older versions took a set of ranks; flux-core still translates the two that were in use.
        if value in ("0", f"0-{size - 1}"):
            quorum = 1 if value == "0" else size
            if self._router.rank == 0:
                self._log(LOG_ERR, f"warning: broker.quorum is now a size - assuming {quorum}")
            return quorum
        number = _NUMBER.match(value)
        if number is None or not 1 <= int(number[1]) <= size:
            raise ValueError("Error parsing broker.quorum attribute")
        return int(number[1])

    def gather(self) -> None:
        """Begin to wait for the brokers, and to warn about missing ones from time to time."""
        self._groups.watch(_GROUP, self._changed)
        self._arm()

    def _changed(self, members: str) -> None:
        state = self._state()
        before, self._online = self._online, set(decode_idset(members))
        reached = len(self._online) >= self.size
        if state == "quorum":
            now = self._reactor.clock.monotonic()
            if members and (reached or now - self._told > _QUIET):
                self._told = now
                self._log(LOG_INFO, f"online: {hosts(self._attributes, self._online)} (ranks {members})")
            if reached:
                self._reached()
        lost = before - self._online
        if lost and state in ("run", "cleanup"):
            self._log(LOG_ERR, f"dead to Flux: {hosts(self._attributes, lost)} (rank {encode_idset(lost)})")

    def _reached(self) -> None:
        self._post("quorum-full")
        if self._warned:
            self._log(LOG_ERR, "quorum reached")
            self._warned = False

    def _warn(self) -> None:
        if self._state() != "quorum":
            if self._timer is not None:
                self._timer.cancel()
            return
        missing = set(range(self._router.size)) - self._online
        self._log(
            LOG_ERR, f"quorum delayed: waiting for {hosts(self._attributes, missing)} (rank {encode_idset(missing)})"
        )
        self._warned = True

    def _arm(self) -> None:
        period = self._attributes.duration("broker.quorum-warn")
        if period > 0:
            self._timer = self._reactor.clock.call_every(period, self._warn)

    def _log(self, severity: int, text: str) -> None:
        self._broker_log.write(severity, text)
