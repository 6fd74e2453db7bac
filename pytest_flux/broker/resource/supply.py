"""Between inventory and scheduler: keeps the scheduler's pool up to date as resources come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_flux.broker.resource.inventory import Inventory
from pytest_flux.protocol.resource_pool import ResourcePool
from pytest_flux.protocol.resource_set import ResourceSet

if TYPE_CHECKING:
    from pytest_flux.broker.jobs.alloc import Alloc


class Supply:
    """Gives ``alloc`` a pool, and changes it with the inventory from now on.

    ``expires`` is called with the old and the new end of the resources.
    """

    def __init__(self, inventory: Inventory, alloc: Alloc, expires: Callable[[float, float], None]) -> None:
        self._inventory = inventory
        self._alloc = alloc
        self._expires = expires
        self._defined = inventory.resources
        self._pool = self._new_pool()
        inventory.is_muted = False
        inventory.on_change.append(self._changed)
        inventory.allocated = self.allocated

    def allocated(self) -> ResourceSet:
        """Return the resources that jobs hold."""
        return self._pool.allocated()

    def end(self) -> None:
        """Take the pool away: scheduler or resources are no longer there. Jobs that wait go on waiting."""
        self._inventory.on_change.remove(self._changed)
        self._inventory.allocated = ResourceSet
        self._alloc.go_offline()

    def _new_pool(self) -> ResourcePool:
        self._defined = self._inventory.resources
        pool = ResourcePool(self._inventory.usable())
        pool.mark_down(self._inventory.down())
        self._alloc.go_online(pool)
        return pool

    def _changed(self) -> None:
        if self._inventory.is_muted:
            return
        if self._inventory.resources is not self._defined:
            self._pool = self._new_pool()
            return
        pool, down = self._pool, self._inventory.down()
        usable = self._inventory.usable()
        pool.shrink([rank for rank in pool.resources if rank not in usable])
        pool.mark_down(down)
        pool.mark_up([rank for rank in pool.resources if rank not in down])
        before, now = pool.resources.expiration, self._inventory.resources.expiration
        pool.resources.expiration = now
        if before != now:
            self._expires(before, now)
        self._alloc.plan()
