"""`overlay`: health and topology of the tree."""

from __future__ import annotations

import errno

from pytest_flux.broker.overlay import tbon
from pytest_flux.broker.overlay.peers import OFFLINE, STATUS, Child
from pytest_flux.broker.overlay.trace import Tracer
from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_CRIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.overlay.overlay import Overlay
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.clock import Clock


class OverlayService(Service):
    """Answers from the overlay of this broker."""

    name = "overlay"

    def __init__(
        self, router: Router, log: BrokerLog, attributes: Attributes, overlay: Overlay, clock: Clock
    ) -> None:
        super().__init__(router, log)
        self._attributes = attributes
        self._overlay = overlay
        self._clock = clock
        self._tracers: dict[Request, Tracer] = {}

    def configure(self, config: dict[str, Any]) -> None:
        """Take over ``torpid_min`` and ``torpid_max``, which may change at any time."""
        for name, value in tbon.check_torpid(self._attributes, config).items():
            self._attributes.set(name, value)

    def _health(self) -> dict[str, Any]:
        overlay, now = self._overlay, self._clock.monotonic()
        return {
            "rank": self.router.rank,
            "status": STATUS[overlay.status],
            "duration": now - overlay.since,
            "children": [
                {
                    "rank": child.rank,
                    "status": STATUS[child.status],
                    "duration": now - child.since,
                    **({"error": child.error} if child.error and not child.is_online else {}),
                }
                for child in overlay.children.values()
            ],
        }

    @method("health", roles=ALL)
    def health(self, request: Request) -> Answer | _Later:
        """→ ``{rank, status, duration, children}``; streaming: again at each change."""
        if not request.message.is_streaming:
            return self._health()
        request.respond(self._health())
        return self.hold(request)

    @method("topology", roles=ALL)
    def topology(self, request: Request) -> Answer:
        """``{rank}`` → ``{rank, size, children}``, recursively; ENOENT unless it is this rank or a child of it."""
        rank = request.field("rank", int)
        if rank != self.router.rank and rank not in self._overlay.children:
            raise FluxError(errno.ENOENT, "requested rank is not this broker or its direct child")
        return self.router.topology.subtree_json(rank)

    @method("monitor", roles=ALL)
    def monitor(self, request: Request) -> Answer | _Later:
        """→ ``{rank, status, torpid}`` for each child that is not offline, and at each change."""
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO)
        for child in self._overlay.children.values():
            if child.status != OFFLINE or child.is_torpid:
                self._tell(request, child)
        return self.hold(request)

    @method("trace")
    def trace(self, request: Request) -> _Later:
        """``{typemask, topic_glob, nodeid, full?}`` → each matching message from or to a neighbour."""
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO)
        tracer = Tracer(request, self._clock)
        self._tracers[request] = tracer
        self._overlay.tracers.append(tracer)
        return self.hold(request)

    def abandoned(self, request: Request) -> None:
        """End the trace of a client that has disconnected or cancelled."""
        tracer = self._tracers.pop(request, None)
        if tracer is not None:
            self._overlay.tracers.remove(tracer)

    @method("disconnect-subtree")
    def disconnect_subtree(self, request: Request) -> Answer:
        """``{rank}``: cut a child off."""
        rank = request.field("rank", int)
        child = self._overlay.children.get(rank)
        if child is None:
            raise FluxError(errno.ENOENT, "requested rank is not this broker's direct child")
        if not child.is_online:
            raise FluxError(errno.EINVAL, f"rank {rank} is already {STATUS[child.status]}")
        self._overlay.disconnect(child)
        return None

    @method("disconnect-parent")
    def disconnect_parent(self, request: Request) -> Answer:
        """``{reason}``: cut ourselves off."""
        self._overlay.log(LOG_CRIT, f"disconnecting: {request.field('reason', str)}")
        self._overlay.lose_parent()
        return None

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ counts of neighbours, and of the requests that wait for their answers."""
        overlay = self._overlay
        children, link = overlay.children.values(), overlay.parent
        parent = link.peer if link is not None else None
        return {
            "child-count": len(children),
            "child-connected": len(overlay.online),
            "parent-count": int(self.router.rank > 0),
            "parent-rpc": 0 if parent is None else parent.pending,
            "child-rpc": sum(child.peer.pending for child in children if child.peer is not None),
            "interthread": {"sendq": 0, "recvq": 0},
        }

    def _tell(self, request: Request, child: Child) -> None:
        request.respond({"rank": child.rank, "status": STATUS[child.status], "torpid": child.is_torpid})

    def changed(self, child: Child) -> None:
        """A child's status has changed: answer those who follow it."""
        for request in list(self.held):
            if request.topic == "overlay.health":
                request.respond(self._health())
            elif request.topic == "overlay.monitor":
                self._tell(request, child)
