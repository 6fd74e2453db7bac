"""Processes that a broker runs for us: the client's side of RFC 42 ("exec"), the service `rexec`."""

from __future__ import annotations

import errno
import os

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.ioencode import decode_io, encode_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pytest_flux.client.connection import Rpc
    from pytest_flux.client.handle import Flux

FLAG_STDOUT = 1
FLAG_STDERR = 2
FLAG_CHANNEL = 4
FLAG_WRITE_CREDIT = 8
FLAG_WAITABLE = 16

STARTING = "starting"
RUNNING = "running"
EXITED = "exited"
FAILED = "failed"

_OUTPUT = FLAG_STDOUT | FLAG_STDERR


def describe_command(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    label: str | None = None,
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The command object (RFC 42, "Command Object"). ``cwd`` is the broker's by default, ``env`` is ours.

    Variables that are not UTF-8 are dropped, because JSON cannot carry them.
    """
    environment = os.environ if env is None else env
    command: dict[str, Any] = {} if cwd is None else {"cwd": cwd}
    if label is not None:
        command["label"] = label
    command["cmdline"] = list(argv)
    command["env"] = {name: value for name, value in environment.items() if _is_text(name + value)}
    command |= {"opts": dict(options or {}), "channels": [], "msgchan": []}
    return command


class RemoteProcess:
    """One process on one rank, from its request to its end.

    ``state`` goes from STARTING through RUNNING to EXITED, with ``status`` as from waitpid(), or to FAILED, with the
    reason in ``error``. ``credits`` is how many bytes its stdin accepts now. No method waits; call
    :meth:`take_output` whenever ``rpc`` has responses.
    """

    __slots__ = ("_flux", "_service", "complete", "credits", "error", "pid", "rank", "rpc", "state", "status")

    def __init__(self, flux: Flux, rpc: Rpc, service: str) -> None:
        self.rpc = rpc
        self.rank = rpc.nodeid
        self.pid = 0
        self.state = STARTING
        self.status = 0
        self.credits = 0
        self.complete = False
        self.error: FluxError | None = None
        self._flux = flux
        self._service = service

    @classmethod
    def start(
        cls,
        flux: Flux,
        rank: int,
        command: Mapping[str, Any],
        *,
        service: str = "rexec",
        flow_control: bool = True,
    ) -> RemoteProcess:
        """Request a process. Without ``flow_control`` there are no ``credits``, and writes are unbounded."""
        flags = _OUTPUT | (FLAG_WRITE_CREDIT if flow_control else 0)
        request = {"cmd": command, "flags": flags, "local_flags": 0}
        return cls(flux, flux.rpc(f"{service}.exec", request, nodeid=rank, streaming=True), service)

    @classmethod
    def attach(cls, flux: Flux, rank: int, target: int | str, *, service: str = "rexec") -> RemoteProcess:
        """Follow a process that runs in the background, by its pid or its label."""
        request: dict[str, Any] = {"pid": target} if isinstance(target, int) else {"pid": -1, "label": target}
        request["flags"] = _OUTPUT
        return cls(flux, flux.rpc(f"{service}.attach", request, nodeid=rank, streaming=True), service)

    def take_output(self) -> list[tuple[str, bytes]]:
        """Take the responses that have arrived. Returns the output in them, in order, each piece with its stream."""
        output: list[tuple[str, bytes]] = []
        while not self.complete and self.rpc.is_ready():
            try:
                self._follow(self.rpc.get(), output)
            except FluxError as error:
                self._end(error)
            except (KeyError, TypeError, ValueError) as error:
                self._end(FluxError(errno.EPROTO, f"{self._service}.exec: unexpected response ({error})"))
        return output

    def write(self, data: bytes) -> None:
        """Send bytes to the stdin of the process."""
        self._send_input(encode_io("stdin", "0", data))
        self.credits -= len(data)

    def close_stdin(self) -> None:
        """Let the process find the end of its stdin."""
        self._send_input(encode_io("stdin", "0", eof=True))

    def kill(self, signum: int) -> Rpc:
        """Send a signal; the response is empty, or an error."""
        return self._flux.rpc(f"{self._service}.kill", {"pid": self.pid, "signum": signum}, nodeid=self.rank)

    def _send_input(self, io: dict[str, Any]) -> None:
        request = {"matchtag": self.rpc.matchtag, "io": io}
        self._flux.post(f"{self._service}.write", request, self.rank)

    def _follow(self, response: dict[str, Any], output: list[tuple[str, bytes]]) -> None:
        kind = response["type"]
        if kind in ("started", "attached"):
            self.pid = int(response["pid"])
            self.state = RUNNING
        elif kind == "output":
            io = decode_io(response["io"])
            if io.data:
                output.append((io.stream, io.data))
        elif kind == "add-credit":
            self.credits += int(response["channels"].get("stdin", 0))
        elif kind == "finished":
            self.status = int(response["status"])
            self.state = EXITED
        elif kind != "stopped":
            raise ProtocolError("unknown type of response", str(kind))

    def _end(self, error: FluxError) -> None:
        self.complete = True
        if error.errnum == errno.ENODATA and self.state == EXITED:
            return
        # RFC 42: "finished" comes before the end of the stream.
        self.error = FluxError(errno.EPROTO) if error.errnum == errno.ENODATA else error
        self.state = FAILED
        if self.pid:
            self.kill(9)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
