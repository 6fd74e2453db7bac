"""`overlay`: health and shape of the tree."""

from __future__ import annotations

import errno
import time
from typing import Any

from pytest_flux.broker.overlay import LOST, OFFLINE, STATUS, Child
from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError


class OverlayService(Service):
    """Answers from the overlay of this broker."""

    name = "overlay"

    def _health(self) -> dict[str, Any]:
        overlay, now = self.broker.overlay, time.monotonic()
        return {
            "rank": self.broker.rank,
            "status": STATUS[overlay.status],
            "duration": now - overlay.since,
            "children": [
                {"rank": child.rank, "status": STATUS[child.status], "duration": now - child.since}
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
        if rank != self.broker.rank and rank not in self.broker.overlay.children:
            raise FluxError(errno.ENOENT, "requested rank is not this broker or its direct child")
        return self.broker.router.topology.subtree_json(rank)

    @method("monitor", roles=ALL)
    def monitor(self, request: Request) -> Answer | _Later:
        """→ ``{rank, status, torpid}`` for each child that is not offline, and at each change."""
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO)
        for child in self.broker.overlay.children.values():
            if child.status != OFFLINE:
                self._tell(request, child)
        return self.hold(request)

    @method("goodbye")
    def goodbye(self, request: Request) -> Answer:
        """A child leaves in order."""
        uuid = request.message.routes[-1] if request.message.routes else ""
        for child in self.broker.overlay.children.values():
            if child.peer is not None and child.peer.uuid == uuid:
                request.respond()
                self.broker.overlay.set_status(child, OFFLINE)
        return None

    @method("disconnect-subtree")
    def disconnect_subtree(self, request: Request) -> Answer:
        """``{rank}``: cut a child off."""
        rank = request.field("rank", int)
        child = self.broker.overlay.children.get(rank)
        if child is None or child.connection is None:
            raise FluxError(
                errno.ENOENT, "requested rank is not a direct child of this broker, or is offline"
            )
        self.broker.overlay.drop(child, LOST)
        return None

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ counts of children by connection."""
        children = self.broker.overlay.children.values()
        return {
            "child-count": len(children),
            "child-connected": sum(child.connection is not None for child in children),
            "parent-count": int(self.broker.overlay.parent is not None),
        }

    def _tell(self, request: Request, child: Child) -> None:
        request.respond({"rank": child.rank, "status": STATUS[child.status], "torpid": False})

    def changed(self, child: Child) -> None:
        """A child's status has changed: tell those who follow."""
        for request in list(self.held):
            if request.topic == "overlay.health":
                request.respond(self._health())
            else:
                self._tell(request, child)
