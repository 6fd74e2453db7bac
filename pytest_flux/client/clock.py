"""What time it is in an instance: that of the system, unless the instance was started with ``--clock``."""

from __future__ import annotations

import errno
import time

from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client.connection import Connection


def instance_time(flux: Connection) -> float:
    """Seconds since the epoch, as in the event logs of the instance. Raises OSError if it does not answer."""
    try:
        flux.rpc("attr.get", {"name": "clock.mode"}).get()
        return float(flux.rpc("clock.now", nodeid=0).get()["now"])
    except FluxError as error:
        if error.errnum not in (errno.ENOENT, errno.ENOSYS):
            raise
        return time.time()


def present_time() -> float:
    """The time of the instance of ``FLUX_URI``, or of the system if there is none."""
    from pytest_flux.client.handle import Flux

    try:
        with Flux() as flux:
            return instance_time(flux)
    except (OSError, ValueError):
        return time.time()
