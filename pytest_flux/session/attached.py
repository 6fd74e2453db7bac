"""An instance that somebody else has started: an enclosing one, a cluster's, another worker's, the last run's."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_flux.instance import FluxInstance, InstanceError
from pytest_flux.protocol.errors import FluxError
from pytest_flux.session.log import InstanceLog
from pytest_flux.settings import Settings

if TYPE_CHECKING:
    from pytest_flux.session.brokers import BrokerHandle

_INTERVAL = 0.01


class AttachedInstance(FluxInstance):
    """The instance at ``uri``. Starting it is to wait until it runs, stopping it to hang up.

    ``log`` is the file that it prints to, if that is known. What would harm it is refused unless it ``is_ours``.
    """

    def __init__(self, uri: str, settings: Settings, *, log: str | None = None, is_ours: bool = False) -> None:
        super().__init__(settings, output=InstanceLog(log))
        self._uri = uri
        self._is_ours = is_ours

    def begin(self) -> None:
        """Nothing: others have."""

    def start(self) -> None:
        """Wait until it runs. Raises InstanceError."""
        deadline = time.monotonic() + self.settings.timeout
        while True:
            try:
                self.client.rpc("state-machine.wait").get(max(deadline - time.monotonic(), 0))
                break
            except (FluxError, OSError) as error:
                self._close_connections()
                # Another process may be about to start it: there is nothing that would tell when it listens.
                if not self._is_ours or isinstance(error, (FluxError, TimeoutError)) or time.monotonic() > deadline:
                    raise InstanceError(f"instance at {self.uri}: {error}\n{self.log_tail()}") from None
            time.sleep(_INTERVAL)
        self.size = self.client.size

    def begin_stop(self) -> None:
        """Hang up."""
        self._close_connections()

    def finish_stop(self) -> None:
        """Nothing more to do."""
        self._end()

    def kill(self) -> None:
        """Hang up."""
        self._close_connections()
        self._end()

    @property
    def is_stopping(self) -> bool:
        """Never: it goes on."""
        return False

    @property
    def can_be_restored(self) -> bool:
        """Not what belongs to others, or is used by others at the same time."""
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
        """What it was attached by."""
        return self._uri

    @property
    def brokers(self) -> Sequence[BrokerHandle]:
        """Refused where the instance is not ours to take apart. Raises InstanceError."""
        if not self._is_ours:
            raise InstanceError(f"brokers of {self.uri}: this instance was not started for tests, and is left alone")
        return super().brokers

    def dead_brokers(self) -> dict[int, int]:
        """Nobody tells us."""
        return {}

    def log(self) -> str:
        """What it has printed, if we know where, else what its rank 0 has in its log."""
        if self.output.path is not None or not self.is_running:
            return super().log()
        rpc = self.client.rpc("log.dmesg", {"follow": False}, nodeid=0, streaming=True, timeout=self.settings.timeout)
        lines = []
        try:
            while True:
                lines.append(rpc.get_text())
        except FluxError:
            return "\n".join(lines)


class KeptInstance(AttachedInstance):
    """One that was left to us by an earlier run: ours alone."""

    @property
    def can_be_restored(self) -> bool:
        """As if we had started it."""
        return True
