"""Waiting until an instance takes clients, and finding out why it does not."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from pytest_flux.launcher.spec import LaunchError

if TYPE_CHECKING:
    from pytest_flux.instance import FluxInstance
    from pytest_flux.launcher.detached import DetachedSession

# How often a broker is tried that tells nobody when it takes clients, in seconds.
_INTERVAL = 0.01
# How long a broker that takes no questions any more may need to be gone.
_END_LIMIT = 5.0


def wait_for_clients(instance: FluxInstance, session: DetachedSession, deadline: float) -> None:
    """Wait until rank 0 takes clients. Raises LaunchError, TimeoutError."""
    if instance.settings.personality != "system":
        session.wait_booted(0, deadline - time.monotonic())
        return
    # Bootstrapped from a file, brokers have no conversation that the launcher would see the end of.
    while True:
        session.check()
        try:
            if session.rundir is not None:
                instance.client.flush()
                return
        except OSError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
        select.select([session] if session.fileno() >= 0 else [], [], [], _INTERVAL)


def reason_of(session: DetachedSession, otherwise: str) -> str:
    """Why a session ends before it was up; ``otherwise`` if it does not, or not soon."""
    try:
        session.wait(_END_LIMIT)
        session.check()
    except TimeoutError:
        return otherwise
    except LaunchError as error:
        return str(error)
    return otherwise
