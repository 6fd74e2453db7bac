"""PMI for the tasks of one shell (RFC 13). What they put is exchanged with other shells at each barrier."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial

from pytest_flux.broker.exec.failure import ShellFailure
from pytest_flux.protocol.pmi import encode_line
from pytest_flux.protocol.pmi_server import Abort, ClientError, Event, Finalized, PmiServer, Reply
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import Stream

_LOCAL = "local::"
"""What keys begin with that are for one node only (flux-core's shell has this for Cray's library)."""


class ShellPmi:
    """Serves the tasks here. ``exchange`` gets what they have put, None where there are no other shells."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        size: int,
        local_size: int,
        name: str,
        values: Mapping[str, str],
        exchange: Callable[[dict[str, str]], None] | None,
        abort: Callable[[str], None],
        failed: Callable[[ShellFailure], None],
    ) -> None:
        self._reactor = reactor
        self._server = PmiServer(size, local_size=local_size, kvsname=name, kvs=values)
        self._exchange = exchange
        self._abort = abort
        self._failed = failed
        self._shared: dict[str, str] = dict(values)
        self._streams: dict[int, Stream] = {}
        self._held: list[Reply] = []
        self._is_over = False

    def connect(self, rank: int) -> socket.socket:
        """The task's end of a new connection."""
        ours, theirs = socket.socketpair()
        self._streams[rank] = Stream(self._reactor, ours, partial(self._receive, rank), _ignore)
        return theirs

    def disconnect(self, rank: int) -> None:
        """A task has ended: what it has sent is read first."""
        stream = self._streams.get(rank)
        if stream is None:
            return
        stream.read_rest()
        stream.close()
        if self._streams.pop(rank, None) is not None:
            self._server.disconnect(rank)

    def close(self) -> None:
        """Close all connections."""
        self._is_over = True
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def exchanged(self, values: Mapping[str, str]) -> None:
        """All shells are in the barrier, and these are the values of them all: let the tasks go on."""
        self._server.kvs.update(values)
        self._shared.update(values)
        held, self._held = self._held, []
        self._carry_out(list(held))

    def _receive(self, rank: int, data: bytes) -> None:
        try:
            events, error = self._server.receive(rank, data), None
        except ClientError as broken:
            events, error = broken.events, broken
        barrier = [event for event in events if isinstance(event, Reply) and "cmd=barrier_out" in event.line]
        if barrier and self._exchange is not None:
            self._carry_out([event for event in events if event not in barrier])
            self._held.extend(barrier)
            self._exchange(self._news())
        else:
            self._carry_out(events)
        if error is not None and not self._is_over:
            # What tasks send while they are killed does not matter any more.
            self._is_over = True
            self._failed(ShellFailure("PMI-1 wire protocol error"))

    def _news(self) -> dict[str, str]:
        return {
            key: value
            for key, value in self._server.kvs.items()
            if self._shared.get(key) != value and not key.startswith(_LOCAL)
        }

    def _carry_out(self, events: list[Event] | list[Reply]) -> None:
        for event in events:
            if isinstance(event, Reply):
                stream = self._streams.get(event.rank)
                if stream is not None:
                    stream.write(encode_line(event.line))
            elif isinstance(event, Abort):
                if not self._is_over:
                    self._is_over = True
                    self._abort(f"PMI_Abort: {event.message}" if event.message else "PMI_Abort")
            elif isinstance(event, Finalized):
                # The task may keep its end open as long as it likes.
                continue


def _ignore() -> None:
    """That a task has closed its end says nothing: that it has ended shows elsewhere."""
