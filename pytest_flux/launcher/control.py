"""The `start` service on RUNDIR/start: list, kill, wait for and start single brokers.

Requests and errors are those of flux-start, whose service Flux's own tests use to make faults.
"""

from __future__ import annotations

import errno
import os

from pytest_flux.launcher.report import report
from pytest_flux.launcher.spec import LaunchError
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import REQUEST, ROLE_OWNER, Message, encode_json
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.usock import Connection, UsockServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, Protocol

    class Brokers(Protocol):
        """The brokers that the service controls."""

        def pids(self) -> list[int]:
            """Process ids in the order of ranks; -1 for those that do not run."""

        def pid(self, rank: int) -> int:
            """Process id of a rank, -1 if it does not run. Raises LookupError if there is no such rank."""

        def exit_code_of(self, rank: int) -> int:
            """Exit code of a rank that has ended, 0 before."""

        def start(self, rank: int) -> None:
            """Start a rank that does not run. Raises LaunchError."""


class ControlService:
    """Serves clients of the same user, which connect to ``listener`` at ``path``."""

    def __init__(
        self, reactor: Reactor, path: str, listener: socket.socket, brokers: Brokers, *, verbose: bool
    ) -> None:
        self._brokers = brokers
        self._verbose = verbose
        self._waiting: dict[int, tuple[Connection, Message]] = {}
        self._methods: dict[str, Callable[[Connection, Message], dict[str, Any] | None]] = {
            "start.status": self._status,
            "start.kill": self._kill,
            "start.run": self._run,
        }
        self._server = UsockServer(
            reactor, path, self._receive, self._disconnected, on_connect=self._connected, listener=listener
        )

    def close(self) -> None:
        """Close all connections, and drop requests that wait."""
        self._verbose = False
        self._server.close()

    def ended(self, rank: int) -> None:
        """Answer the client that waits for the end of this broker, if any."""
        waiting = self._waiting.pop(rank, None)
        if waiting is not None:
            self._respond(*waiting, {"exit_rc": self._brokers.exit_code_of(rank)})

    def _receive(self, connection: Connection, message: Message) -> None:
        if message.type != REQUEST or message.topic is None:
            if self._verbose:
                report(f"drop message from {connection.uuid:.5}")
            return
        if message.topic == "disconnect":
            return
        try:
            if message.topic == "start.wait":
                self._wait(connection, message)
                return
            method = self._methods.get(message.topic)
            if method is None:
                raise FluxError(errno.ENOSYS, f"Unknown service method '{message.topic}'")
            self._respond(connection, message, method(connection, message))
        except ProtocolError:
            self._respond(connection, message, error=FluxError(errno.EPROTO))
        except FluxError as error:
            self._respond(connection, message, error=error)

    def _respond(
        self,
        connection: Connection,
        request: Message,
        payload: dict[str, Any] | None = None,
        error: FluxError | None = None,
    ) -> None:
        if not request.wants_response:
            return
        if error is not None:
            text = None if error.text is None else error.text.encode() + b"\0"
            response = request.response(text, error.errnum)
        else:
            response = request.response(None if payload is None else encode_json(payload))
        # libflux drops messages without a role, and matches responses by an empty route stack only (RFC 3).
        response.userid = os.getuid()
        response.rolemask = ROLE_OWNER
        connection.send(response)

    def _status(self, connection: Connection, request: Message) -> dict[str, Any]:
        return {"procs": [{"pid": pid} for pid in self._brokers.pids()]}

    def _kill(self, connection: Connection, request: Message) -> None:
        rank, signum = _integers(request, "rank", "signum")
        pid = self._pid(rank)
        if pid < 0:
            return
        if signum == 0:
            raise FluxError(errno.EINVAL)
        try:
            # As in flux-start, invalid signal numbers are no error.
            os.kill(pid, signum)
        except (OSError, OverflowError):
            return

    def _run(self, connection: Connection, request: Message) -> None:
        (rank,) = _integers(request, "rank")
        if self._pid(rank) >= 0:
            raise FluxError(errno.EEXIST)
        try:
            self._brokers.start(rank)
        except LaunchError as error:
            raise FluxError(errno.EIO, str(error)) from None
        except OSError as error:
            raise FluxError(error.errno or errno.EIO) from None

    def _wait(self, connection: Connection, request: Message) -> None:
        (rank,) = _integers(request, "rank")
        running = self._pid(rank) >= 0
        if rank in self._waiting:
            raise FluxError(errno.EEXIST)
        self._waiting[rank] = (connection, request)
        if not running:
            self.ended(rank)

    def _pid(self, rank: int) -> int:
        try:
            return self._brokers.pid(rank)
        except LookupError:
            raise FluxError(errno.ESRCH) from None

    def _connected(self, connection: Connection) -> None:
        if self._verbose:
            report(f"hi {connection.uuid:.5}")

    def _disconnected(self, connection: Connection) -> None:
        if self._verbose:
            report(f"bye {connection.uuid:.5}")
            report(f"disconnect from {connection.uuid:.5}")
        for rank in [rank for rank, (waiting, _) in self._waiting.items() if waiting is connection]:
            del self._waiting[rank]


def _integers(request: Message, *names: str) -> list[int]:
    """Read integers from the payload; JSON's true and 1.0 are none. Raises ProtocolError."""
    payload = request.json()
    values = []
    for name in names:
        value = payload.get(name)
        if type(value) is not int:
            raise ProtocolError(f"payload has no integer {name}", request.topic or "")
        values.append(value)
    return values
