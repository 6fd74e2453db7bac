"""Instances of a store: used together with other processes, or handed from one run of tests to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flux.instance.attached import AttachedInstance
from pytest_flux.instance.log import InstanceLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.instance.settings import Settings
    from pytest_flux.instance.store import Lease


class SharedInstance(AttachedInstance):
    """An instance that other processes use at the same time. ``lease`` is our use of it."""

    def __init__(self, settings: Settings, lease: Lease) -> None:
        super().__init__(lease.record.uri, settings, log=lease.record.log, is_ours=True)
        self.lease = lease

    def _end(self) -> None:
        super()._end()
        self.lease.close()


class KeptInstance(SharedInstance):
    """An instance that an earlier run has left to us alone. ``take`` leases one with the same settings."""

    def __init__(self, settings: Settings, take: Callable[[Settings], Lease]) -> None:
        super().__init__(settings, take(settings))
        self._take = take

    @property
    def can_be_restored(self) -> bool:
        """True, as if we had started it."""
        return True

    @property
    def is_new(self) -> bool:
        """Whether it was started for us, so that no earlier run has used it."""
        return self.lease.is_new

    @property
    def baseline(self) -> str:
        """The file for the state that it had when it was new."""
        return f"{self.lease.record.path}.baseline"

    def renew(self) -> None:
        """End the instance and lease a new one."""
        self.lease.record.stop()
        self.kill()
        self.lease = self._take(self.settings)
        self._uri = self.lease.record.uri
        self._reset(InstanceLog(self.lease.record.log))
