"""The brokers of an instance, one by one: faults on purpose."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.errors import FluxError
from pytest_flux.session.log import by_writer

if TYPE_CHECKING:
    from pytest_flux.instance import FluxInstance


class BrokerHandle:
    """One broker. What it does goes through the launcher's `start` service, as in Flux's own tests."""

    def __init__(self, instance: FluxInstance, rank: int) -> None:
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
        """The exit code, where nobody can be asked any more: the session ends with its last broker."""
        code = self._instance.dead_brokers().get(self.rank)
        if code is None or isinstance(error, (FluxError, TimeoutError)):
            raise error
        return code

    @property
    def pid(self) -> int:
        """Process id, -1 if it does not run."""
        try:
            return int(self._ask("start.status", {})["procs"][self.rank]["pid"])
        except OSError as error:
            self._ended_with(error)
            return -1

    @property
    def is_running(self) -> bool:
        """Whether there is a process, be it a stopped one."""
        return self.pid >= 0

    def send_signal(self, signum: int) -> None:
        """Send a signal; nothing happens if the broker does not run."""
        self._ask("start.kill", {"rank": self.rank, "signum": int(signum)})

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Kill the broker. The instance may then end with an error: that is what was asked for."""
        self._instance.expected_ends.add(self.rank)
        if signum == signal.SIGKILL:
            self._instance.killed.add(self.rank)
            self._instance.suspended.discard(self.rank)
        self.send_signal(signum)

    def stop(self) -> None:
        """Suspend the broker (SIGSTOP): to the others it falls silent."""
        self.send_signal(signal.SIGSTOP)
        self._instance.suspended.add(self.rank)

    def cont(self) -> None:
        """Let a suspended broker go on (SIGCONT)."""
        self.send_signal(signal.SIGCONT)
        self._instance.suspended.discard(self.rank)

    def start(self) -> None:
        """Start the broker, which must not be running. FluxError EEXIST if it is."""
        self._ask("start.run", {"rank": self.rank})

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the broker's end; its exit code, 128 + n for signal n. Raises TimeoutError."""
        try:
            return int(self._ask("start.wait", {"rank": self.rank}, timeout)["exit_rc"])
        except OSError as error:
            return self._ended_with(error)

    @property
    def log(self) -> str:
        """What it has logged to standard error so far."""
        return "\n".join(by_writer(self._instance.log()).get(f"rank {self.rank}", []))
