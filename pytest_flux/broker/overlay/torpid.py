"""Find brokers that do not respond: each sends heartbeats to its parent, which notices their absence.

flux-core checks at each heartbeat event if that module is loaded, and every five seconds otherwise.
"""

from __future__ import annotations

from pytest_flux.protocol.duration import format_duration
from pytest_flux.protocol.severity import LOG_ERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.overlay.overlay import Overlay
    from pytest_flux.broker.overlay.peers import Child
    from pytest_flux.reactor.reactor import Reactor

_LONGEST, _SHORTEST = 5.0, 0.1


class TorpidWatch:
    """Sends heartbeats to the parent and checks the children, until the reactor ends."""

    def __init__(self, overlay: Overlay, reactor: Reactor, attributes: Attributes) -> None:
        self._overlay = overlay
        self._reactor = reactor
        self._attributes = attributes

    def start(self) -> None:
        """Begin; a broker without neighbours has nothing to do."""
        if self._overlay.children or self._overlay.parent is not None:
            self._arm()

    def _arm(self) -> None:
        period = min(_LONGEST, max(_SHORTEST, self._attributes.duration("tbon.torpid_min")))
        self._reactor.call_later(period, self._look)

    def _look(self) -> None:
        self._arm()
        if self._overlay.parent is not None:
            self._overlay.parent.beat(self._attributes.duration("tbon.torpid_min"))
        limit = self._attributes.duration("tbon.torpid_max")
        for child in self._overlay.children.values():
            if child.is_online:
                silence = self._reactor.monotonic() - child.heard_at
                self._judge(child, silence, is_torpid=0 < limit <= silence)

    def _judge(self, child: Child, silence: float, *, is_torpid: bool) -> None:
        if child.is_torpid == is_torpid:
            return
        child.is_torpid = is_torpid
        host = f"broker on {self._attributes.host_of(child.rank)} (rank {child.rank})"
        text = f"has been unresponsive for {format_duration(silence)}" if is_torpid else "is responsive now"
        self._overlay.log(LOG_ERR, f"{host} {text}")
        for changed in list(self._overlay.on_change):
            changed(child)
