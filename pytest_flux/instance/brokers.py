"""Single brokers of an instance: to inspect, and to make faults on purpose."""

from __future__ import annotations

import signal
from typing import Any, Protocol, SupportsIndex, overload

from pytest_flux.instance.log import by_writer
from pytest_flux.protocol.errors import FluxError


class Owner(Protocol):
    """What a broker's handle needs of its instance."""

    expected_ends: set[int]
    killed: set[int]
    suspended: set[int]

    @property
    def rundir(self) -> str: ...  # noqa: D102 - as FluxInstance's

    def patience(self, timeout: float | None) -> float: ...  # noqa: D102

    def dead_brokers(self) -> dict[int, int]: ...  # noqa: D102

    def log(self) -> str: ...  # noqa: D102


class BrokerHandle:
    """One broker. Its methods use the launcher's `start` service, as Flux's own tests do."""

    def __init__(self, instance: Owner, rank: int) -> None:
        self.rank = rank
        self._instance = instance

    def __repr__(self) -> str:
        pid = self.pid
        return f"<broker {self.rank}, {'not running' if pid < 0 else f'pid {pid}'}>"

    def _ask(self, topic: str, payload: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        from pytest_flux.client.connection import Connection

        uri = f"local://{self._instance.rundir}/start"
        with Connection(uri) as connection:
            return connection.rpc(topic, payload).get(self._instance.patience(timeout))

    def _ended_with(self, error: OSError) -> int:
        """Return the exit code after the service has gone: the session ends with its last broker."""
        code = self._instance.dead_brokers().get(self.rank)
        if code is None or isinstance(error, (FluxError, TimeoutError)):
            raise error
        return code

    @property
    def pid(self) -> int:
        """The process id; -1 if the broker does not run."""
        try:
            return int(self._ask("start.status", {})["procs"][self.rank]["pid"])
        except OSError as error:
            self._ended_with(error)
            return -1

    @property
    def is_running(self) -> bool:
        """Whether the broker's process exists, stopped or not."""
        return self.pid >= 0

    @property
    def is_suspended(self) -> bool:
        """Whether the broker's process is stopped (SIGSTOP), by whomever."""
        import psutil

        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except (psutil.Error, ValueError):
            return False

    def send_signal(self, signum: int) -> None:
        """Send a signal. Nothing happens if the broker does not run."""
        self._ask("start.kill", {"rank": self.rank, "signum": int(signum)})

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Kill the broker. The instance may then end with an error, which is not reported."""
        self._instance.expected_ends.add(self.rank)
        if signum == signal.SIGKILL:
            self._instance.killed.add(self.rank)
            self._instance.suspended.discard(self.rank)
        self.send_signal(signum)

    def stop(self) -> None:
        """Suspend the broker (SIGSTOP): the others get no answers from it."""
        self.send_signal(signal.SIGSTOP)
        self._instance.suspended.add(self.rank)

    def cont(self) -> None:
        """Resume a suspended broker (SIGCONT)."""
        self.send_signal(signal.SIGCONT)
        self._instance.suspended.discard(self.rank)

    def start(self) -> None:
        """Start the broker. Raises FluxError EEXIST if it runs."""
        self._ask("start.run", {"rank": self.rank})

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the broker's end and return its exit code, 128 + n for signal n. Raises TimeoutError."""
        try:
            return int(self._ask("start.wait", {"rank": self.rank}, timeout)["exit_rc"])
        except OSError as error:
            return self._ended_with(error)

    @property
    def log(self) -> str:
        """The lines that the broker has logged to standard error so far."""
        return "\n".join(by_writer(self._instance.log()).get(f"rank {self.rank}", []))


class Brokers(list[BrokerHandle]):
    """The brokers of an instance, by rank. IndexError names the rank that does not exist."""

    @overload
    def __getitem__(self, rank: SupportsIndex) -> BrokerHandle: ...

    @overload
    def __getitem__(self, rank: slice) -> list[BrokerHandle]: ...

    def __getitem__(self, rank: SupportsIndex | slice) -> BrokerHandle | list[BrokerHandle]:
        try:
            return super().__getitem__(rank)
        except IndexError:
            raise IndexError(f"rank {rank} of an instance of {len(self)}") from None
