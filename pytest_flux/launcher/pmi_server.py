"""The PMI server of a session: one connection per broker, which inherits its end as a descriptor (RFC 13)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from pytest_flux.launcher.report import write_error
from pytest_flux.protocol.pmi import encode_line
from pytest_flux.protocol.pmi_server import Abort, ClientError, Event, Finalized, PmiServer, Reply
from pytest_flux.protocol.taskmap import Taskmap, decode_taskmap
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import Stream


def process_mapping(clique: str, size: int) -> str:
    """The value of PMI_process_mapping for ``--test-pmi-clique``; empty for none."""
    if clique == "single":
        return Taskmap.single(size).encode_pmi()
    if clique == "per-broker":
        return Taskmap.per_node(size).encode_pmi()
    if clique == "none":
        return ""
    return decode_taskmap(clique).encode_pmi()


class PmiService:
    """Serves ``size`` ranks. ``on_abort`` gets rank and message, ``on_fault`` the text of a protocol error."""

    def __init__(
        self,
        reactor: Reactor,
        size: int,
        clique: str,
        on_abort: Callable[[int, str], None],
        on_fault: Callable[[str], None],
        on_finalized: Callable[[int], None],
        *,
        trace: bool = False,
    ) -> None:
        mapping = process_mapping(clique, size)
        self._reactor = reactor
        self._server = PmiServer(
            size,
            kvs={"PMI_process_mapping": mapping} if mapping else None,
            trace=(lambda line: write_error(f"{line}\n")) if trace else None,
        )
        self._on_abort = on_abort
        self._on_fault = on_fault
        self._on_finalized = on_finalized
        self._streams: dict[int, Stream] = {}

    def serve(self, rank: int, connection: socket.socket) -> None:
        """Serve the broker at the other end, after its start."""
        self.disconnect(rank)
        self._streams[rank] = Stream(self._reactor, connection, partial(self._receive, rank), _ignore_end)

    def finish(self, rank: int) -> None:
        """Handle what a broker sent before it ended, then close its connection."""
        stream = self._streams.get(rank)
        if stream is not None:
            # A client that aborts waits for no answer, so its exit may be seen before its message.
            stream.read_rest()
        self.disconnect(rank)

    def disconnect(self, rank: int) -> None:
        """Close the connection of a broker, if there is one."""
        stream = self._streams.pop(rank, None)
        if stream is not None:
            stream.close()
            self._server.disconnect(rank)

    def close(self) -> None:
        """Close all connections."""
        for rank in list(self._streams):
            self.disconnect(rank)

    def _receive(self, rank: int, data: bytes) -> None:
        try:
            events = self._server.receive(rank, data)
        except ClientError as error:
            self._carry_out(error.events)
            self._on_fault(error.what)
            return
        self._carry_out(events)

    def _carry_out(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Reply):
                stream = self._streams.get(event.rank)
                if stream is not None:
                    stream.write(encode_line(event.line))
            elif isinstance(event, Finalized):
                stream = self._streams.get(event.rank)
                if stream is not None:
                    stream.close(flush=True)
                self._on_finalized(event.rank)
            elif isinstance(event, Abort):
                self._on_abort(event.rank, event.message)


def _ignore_end() -> None:
    """Do nothing: a broker may close its end at any time; its exit is seen elsewhere."""
