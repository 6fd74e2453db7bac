"""`heartbeat`: an event on rank 0 every two seconds, for which the other ranks listen (flux-core's heartbeat.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.config_tables import heartbeat_settings
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import LOG_WARNING

if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.message import Message
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

TOPIC = "heartbeat.pulse"


class Heart:
    """Beats on rank 0. Another rank that misses beats for too long leaves its parent.

    ``period`` is the argument of the module: it counts until the configuration is next changed, as in flux-core.
    FluxError EINVAL if it makes no sense. The configuration was checked before.
    """

    def __init__(
        self, reactor: Reactor, router: Router, log: BrokerLog, config: dict[str, Any], period: str | None
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._log = log
        self.count = 0
        self._last = reactor.clock.monotonic()
        self._is_overdue = False
        self._timer: Timer | None = None
        self.period, self.timeout, self.warn_thresh = heartbeat_settings(config)
        if period is not None:
            try:
                self.period = parse_duration(period)
            except ProtocolError:
                raise FluxError(errno.EINVAL, "period: error parsing FSD: Invalid argument") from None
        if router.rank > 0:
            router.subscribe(TOPIC, self._heard)
        self._arm()

    def configure(self, config: dict[str, Any]) -> None:
        """Take over ``[heartbeat]``."""
        self.period, self.timeout, self.warn_thresh = heartbeat_settings(config)
        self._cancel()
        self._arm()

    def stop(self) -> None:
        """Beat, or listen, no longer."""
        self._router.unsubscribe(self._heard)
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        clock = self._reactor.clock
        if self._router.rank == 0:
            self._timer = clock.call_every(max(self.period, 0.01), self._beat)
        elif not clock.is_virtual:
            # If rank 0 does not respond, virtual time does not move, so the silence would last no time at all.
            self._timer = clock.call_every(max(self.period, 0.01), self._listen)

    def _beat(self) -> None:
        self.count += 1
        self._router.publish(TOPIC)

    def _heard(self, _: Message) -> None:
        self.count += 1
        self._last = self._reactor.clock.monotonic()

    def _listen(self) -> None:
        silence = self._reactor.clock.monotonic() - self._last
        is_overdue = silence > self.period * self.warn_thresh
        if is_overdue != self._is_overdue:
            self._is_overdue = is_overdue
            self._log.write(LOG_WARNING, f"heartbeat {'overdue' if is_overdue else 'received'}", "heartbeat")
        if 0 < self.timeout < silence:
            reason = f"no heartbeat for {format_duration(silence)}"
            self._router.rpc("overlay.disconnect-parent", {"reason": reason})


class HeartbeatService(Service):
    """Describes the heart of this rank."""

    name = "heartbeat"

    def __init__(self, router: Router, log: BrokerLog, heart: Heart) -> None:
        super().__init__(router, log)
        self._heart = heart

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ ``{period, timeout, count, warn_thresh}``."""
        heart = self._heart
        return {
            "period": heart.period,
            "timeout": heart.timeout,
            "count": heart.count,
            "warn_thresh": heart.warn_thresh,
        }
