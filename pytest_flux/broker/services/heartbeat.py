"""`heartbeat`: an event on rank 0 every two seconds, for which the other ranks listen (flux-core's heartbeat.c)."""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.service import ALL, Answer, Request, Service, method
from pytest_flux.protocol.duration import format_duration, parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.severity import LOG_WARNING

if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.message import Message
    from pytest_flux.reactor.reactor import Reactor, Timer

TOPIC = "heartbeat.pulse"
_PERIOD, _TIMEOUT, _WARN_THRESH = 2.0, 300.0, 3


class Heart:
    """Beats on rank 0. Another rank that misses beats for too long leaves its parent.

    ``period`` is the argument of the module: it counts until the configuration is next changed, as in flux-core.
    FluxError EINVAL if it, or the configuration, makes no sense.
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
        self.period, self.timeout, self.warn_thresh = decode_config(config)
        if period is not None:
            try:
                self.period = parse_duration(period)
            except ProtocolError:
                raise FluxError(errno.EINVAL, "period: error parsing FSD: Invalid argument") from None
        if router.rank > 0:
            router.subscribe(TOPIC, self._heard)
        self._arm()

    def configure(self, config: dict[str, Any]) -> None:
        """Take over ``[heartbeat]``. FluxError EINVAL."""
        self.period, self.timeout, self.warn_thresh = decode_config(config)
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
        self._timer = self._reactor.call_later(max(self.period, 0.01), self._tick)

    def _tick(self) -> None:
        self._arm()
        if self._router.rank == 0:
            self.count += 1
            self._router.publish(TOPIC)
        else:
            self._listen()

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


def decode_config(config: dict[str, Any]) -> tuple[float, float, int]:
    """Period, timeout (-1 for none) and warning threshold of ``[heartbeat]``. FluxError EINVAL."""
    table = config.get("heartbeat", {})
    start = "error reading [heartbeat] config table: "
    if not isinstance(table, dict):
        raise FluxError(errno.EINVAL, f"{start}Expected object")
    for name, kind in (("period", str), ("timeout", str), ("warn_thresh", int)):
        if not isinstance(table.get(name, kind()), kind):
            raise FluxError(errno.EINVAL, f"{start}Expected {'string' if kind is str else 'integer'}")
    unknown = sorted(table.keys() - {"period", "timeout", "warn_thresh"})
    if unknown:
        raise FluxError(errno.EINVAL, f"{start}{len(unknown)} object item(s) left unpacked: {', '.join(unknown)}")
    period, timeout = (
        _duration(table, name, default) for name, default in (("period", _PERIOD), ("timeout", _TIMEOUT))
    )
    if period <= 0:
        raise FluxError(errno.EINVAL, "heartbeat.period must be a positive FSD value")
    if timeout == 0 or math.isinf(timeout):
        timeout = -1.0
    if timeout != -1.0 and timeout < period * 2:
        raise FluxError(errno.EINVAL, "heartbeat.timeout must be >= 2*heartbeat.period, infinity, or 0")
    warn_thresh: int = table.get("warn_thresh", _WARN_THRESH)
    if warn_thresh <= 0:
        raise FluxError(errno.EINVAL, "heartbeat.warn_thresh must be positive")
    return period, timeout, warn_thresh


def _duration(table: dict[str, Any], name: str, default: float) -> float:
    try:
        return parse_duration(table[name]) if name in table else default
    except ProtocolError:
        raise FluxError(errno.EINVAL, f"error parsing heartbeat.{name} FSD value") from None


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

    def configure(self, config: dict[str, Any]) -> None:
        """See Service."""
        self._heart.configure(config)
