"""Clients that keep an instance busy until it is killed, and know what it has promised them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pytest_flux.client import Flux
from pytest_flux.client.jobspec import from_command
from pytest_flux.client.kvs import Kvs
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.instance.settings import Settings
from tests.launcher.sessions import DEADLINE


class Load:
    """``kept`` is what was answered after ``--sync``, ``jobs`` are those that have got an id."""

    def __init__(self, uri: str) -> None:
        self.kept: dict[str, str] = {}
        self.jobs: set[int] = set()
        self._uri = uri
        kinds = (self._put, self._submit, self._flood)
        self._threads = [threading.Thread(target=self._work, args=(work,)) for work in kinds]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self._threads:
            thread.join(DEADLINE)

    def _work(self, work: Callable[[Flux], None]) -> None:
        try:
            with Flux(self._uri) as flux:
                while True:
                    work(flux)
        except OSError:
            return

    def _put(self, flux: Flux) -> None:
        key = f"kept.{os.urandom(1).hex()}.{os.urandom(4).hex()}"
        value = os.urandom(os.urandom(1)[0]).hex()
        Kvs(flux).put(key, value, sync=True)
        self.kept[key] = value

    def _submit(self, flux: Flux) -> None:
        self.jobs.add(flux.jobs.submit(from_command(["seq", "50"] if len(self.jobs) % 2 else ["true"])))

    def _flood(self, flux: Flux) -> None:
        """Of these nobody has promised anything."""
        flood = [Kvs(flux).transaction().put(f"lost.{os.urandom(2).hex()}", os.urandom(3000)) for _ in range(20)]
        for rpc in [transaction.begin() for transaction in flood]:
            rpc.get(DEADLINE)


def live_and_die(state: Path, seconds: float) -> Load:
    """One life of an instance that works for so long, and is killed amid that."""
    instance = FluxInstance(Settings(broker="embedded", attrs={"statedir": str(state)}))
    instance.start()
    try:
        with Load(instance.uri) as load:
            time.sleep(seconds)
            instance.brokers[0].kill()
    finally:
        instance.kill()
    return load
