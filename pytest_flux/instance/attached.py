"""An instance that something else has started: an enclosing instance, a cluster, another worker, the last run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_flux.instance.flux_instance import FluxInstance, InstanceError
from pytest_flux.instance.log import InstanceLog
from pytest_flux.instance.settings import Settings
from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.instance.brokers import BrokerHandle

_INTERVAL = 0.01


class AttachedInstance(FluxInstance):
    """The instance at ``uri``. ``start`` waits until it runs; ``stop`` closes our connections.

    ``log`` is the file of its output, if known. Operations that would harm it are refused unless it ``is_ours``.
    """

    def __init__(self, uri: str, settings: Settings, *, log: str | None = None, is_ours: bool = False) -> None:
        super().__init__(settings, output=InstanceLog(log))
        self._uri = uri
        self._is_ours = is_ours

    def begin(self) -> None:
        """Do nothing: the instance has been started."""

    def start(self) -> None:
        """Wait until it runs. Raises InstanceError."""
        deadline = time.monotonic() + self.settings.timeout
        while True:
            try:
                self.client.rpc("state-machine.wait").get(max(deadline - time.monotonic(), 0))
                break
            except (FluxError, OSError) as error:
                self._close_connections()
                # Another process may be starting it; nothing signals the moment from which it listens.
                if not self._is_ours or isinstance(error, (FluxError, TimeoutError)) or time.monotonic() > deadline:
                    raise InstanceError(f"instance at {self.uri}: {error}\n{self.log_tail()}") from None
            time.sleep(_INTERVAL)
        self.size = self.client.size

    def begin_stop(self) -> None:
        """Close our connections."""
        self._close_connections()

    def finish_stop(self) -> None:
        """Close our copy of the log."""
        self._end()

    def kill(self) -> None:
        """Close our connections and our copy of the log."""
        self._close_connections()
        self._end()

    @property
    def is_stopping(self) -> bool:
        """Always False: the instance goes on."""
        return False

    @property
    def can_be_restored(self) -> bool:
        """False: the instance belongs to others, or others use it at the same time."""
        return False

    @property
    def is_running(self) -> bool:
        """Whether we are connected."""
        return bool(self._clients)

    @property
    def rundir(self) -> str:
        """The directory of the instance's sockets."""
        return os.path.dirname(self._uri.removeprefix("local://")) if self._is_ours else self.getattr("rundir")

    @property
    def uri(self) -> str:
        """The URI that was attached to."""
        return self._uri

    @property
    def brokers(self) -> Sequence[BrokerHandle]:
        """The brokers, by rank. Raises InstanceError if the instance is not ours."""
        if not self._is_ours:
            raise InstanceError(f"brokers of {self.uri}: this instance was not started for tests, and is left alone")
        return super().brokers

    def dead_brokers(self) -> dict[int, int]:
        """Always empty: the ends of brokers are not reported to us."""
        return {}

    def log(self) -> str:
        """Its output, if we know the file, else the log that rank 0 has in memory."""
        if self.output.path is not None or not self.is_running:
            return super().log()
        rpc = self.client.rpc("log.dmesg", {"follow": False}, nodeid=0, streaming=True, timeout=self.settings.timeout)
        lines = []
        try:
            while True:
                lines.append(rpc.get_text())
        except FluxError:
            return "\n".join(lines)
