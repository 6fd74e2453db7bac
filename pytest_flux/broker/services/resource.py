"""`resource`: the resources of the instance, and draining (RFC 44; flux-core's modules/resource)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.resource.config import load_resources
from pytest_flux.broker.service import ALL, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.resource.inventory import Inventory
    from pytest_flux.broker.router import Router


class ResourceService(Service):
    """The service of rank 0."""

    name = "resource"

    def __init__(self, router: Router, log: BrokerLog, inventory: Inventory) -> None:
        super().__init__(router, log)
        self._inventory = inventory
        inventory.on_change.append(self._online_changed)

    @method("status", roles=ALL)
    def status(self, request: Request) -> Answer:
        """→ ``{R, drain: {idset: {timestamp, reason}}, online, offline, exclude, torpid}``."""
        inventory = self._inventory
        encoded = inventory.resources.encode()
        encoded.pop("scheduling", None)
        return {
            "R": encoded,
            "drain": inventory.drains.encode(),
            "online": encode_idset(inventory.online),
            "offline": encode_idset(inventory.offline),
            "exclude": encode_idset(inventory.excluded),
            "torpid": encode_idset(inventory.torpid),
        }

    @method("sched-status", roles=ALL)
    def sched_status(self, request: Request) -> Answer:
        """→ ``{all, down, allocated}``, each an R."""
        inventory = self._inventory
        usable = inventory.usable()
        sets = {"all": usable, "down": usable.select(inventory.down()), "allocated": inventory.allocated()}
        return {name: _plain(resources) for name, resources in sets.items()}

    @method("get")
    def get(self, request: Request) -> Answer:
        """→ ``{R, method}``."""
        return {"R": self._inventory.resources.encode(), "method": self._inventory.method}

    @method("drain")
    def drain(self, request: Request) -> Answer:
        """``{targets, reason?, mode?}`` → empty; ``targets`` is an idset or hostlist, ``mode`` is in drain.MODES."""
        self._inventory.drain(*self._drain_request(request))
        return None

    @method("undrain")
    def undrain(self, request: Request) -> Answer:
        """``{targets, reason?, mode?}`` → empty."""
        self._inventory.undrain(*self._drain_request(request))
        return None

    @staticmethod
    def _drain_request(request: Request) -> tuple[str, str | None, str | None]:
        return request.field("targets", str), request.field("reason", str, None), request.field("mode", str, None)

    @method("reload")
    def reload(self, request: Request) -> Answer:
        """``{path, xml, force}`` → empty: read R from a file. Running jobs keep their resources."""
        path, force = request.field("path", str), request.field("force", bool)
        if request.field("xml", bool):
            raise FluxError(errno.ENOSYS, "embedded brokers cannot read hwloc XML: install flux-core")
        try:
            resources = load_resources(path)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        size = self.router.size
        if max(resources, default=-1) >= size and not force:
            text = f"resource object contains ranks execeeding size={size} (override with -f))"
            raise FluxError(errno.EINVAL, text)
        self._inventory.define(resources, "reload")
        return None

    @method("acquire-mute")
    def acquire_mute(self, request: Request) -> Answer:
        """→ empty: keep changes of resources from the scheduler from now on, as for an orderly shutdown."""
        self._inventory.is_muted = True
        return None

    @method("monitor-waitup")
    def monitor_waitup(self, request: Request) -> Answer | _Later:
        """``{up}`` → empty when exactly so many ranks are online."""
        up = request.field("up", int)
        if not 0 <= up <= self.router.size:
            raise FluxError(errno.EPROTO, "up value is out of range")
        return None if up == len(self._inventory.online) else self.hold(request)

    def _online_changed(self) -> None:
        for request in self.held_for("resource.monitor-waitup"):
            if request.field("up", int) == len(self._inventory.online):
                self.release(request)
                request.respond()

    @method("topo-get", roles=ALL)
    def topo_get(self, request: Request) -> Answer:
        """Refuse to send hwloc XML, which an embedded broker does not have."""
        raise FluxError(errno.ENOSYS, "embedded brokers have no hwloc topology: install flux-core")

    @method("expiration-update")
    def expiration_update(self, request: Request) -> Answer:
        """``{expiration}`` → empty: the instance's resources now end at that time."""
        self._inventory.set_expiration(request.field("expiration", float))
        return None

    @method("journal")
    def journal(self, request: Request) -> _Later:
        """→ ``{events, R?}``: past events, an empty list, then each new event."""
        if not request.message.is_streaming:
            raise FluxError(errno.EPROTO, "journal requires streaming RPC flag")
        self._inventory.journal.follow(request)
        return self.hold(request)

    @method("journal-cancel")
    def journal_cancel(self, request: Request) -> Answer:
        """``{matchtag}``: end the journal request with that tag."""
        return self.cancel(request)

    def abandoned(self, request: Request) -> None:
        """See Service."""
        self._inventory.journal.forget(request)

    def configure(self, config: dict[str, Any]) -> None:
        """See Service."""
        self._inventory.configure(config)


def _plain(resources: ResourceSet) -> dict[str, Any]:
    encoded = resources.encode()
    encoded.pop("scheduling", None)
    return encoded
