"""PMI for the tasks of one shell (RFC 13). Shells exchange what tasks have put at each barrier."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.exec.options import ShellFailure, nested
from pytest_flux.protocol.pmi import VALLEN_MAX, encode_line
from pytest_flux.protocol.pmi_server import Abort, ClientError, Event, Finalized, PmiServer, Reply
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import Stream

if TYPE_CHECKING:
    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.protocol.taskmap import Taskmap

_LOCAL = "local::"
"""The prefix of keys that are for one node only (flux-core's shell has this for Cray's library)."""


def pmi_name(name: str, starttime: float, program: str) -> str:
    """The name of a job's key-value space: for ``flux``, whose brokers read their job id from it, ``name``, the id.

    MPICH names its shared memory on the host after it. The first jobs of all our instances have the same id, so other
    programs get a name that is unique: they must not find the shared memory of a job that was killed.
    """
    return name if program.rpartition("/")[2].startswith("flux") else f"{name}.{starttime:.6f}"


def pmi_values(attributes: Attributes, taskmap: Taskmap, options: dict[str, Any]) -> dict[str, str]:
    """What tasks find in the key-value space from the start (flux-core's shell/pmi/pmi.c).

    That is where tasks run, and what an instance needs to know that is a job of this one. PMI limits the length of a
    value; longer ones are left out.
    """
    level = attributes.get("instance-level") or "0"
    values = {"flux.instance-level": str(int(level) + 1) if level.isdigit() else "1"}
    hint = attributes.get("tbon.interface-hint")
    if hint is not None:
        values["flux.tbon-interface-hint"] = hint
    if not nested(options, "pmi-simple", "nomap"):
        values["PMI_process_mapping"] = taskmap.encode_pmi()
        values["flux.taskmap"] = taskmap.encode_wrapped()
    return {key: value for key, value in values.items() if len(value) < VALLEN_MAX}


class ShellPmi:
    """The server of the tasks here. ``exchange`` gets what they have put; it is None if there are no other shells."""

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
        """A task has ended: read what it has sent, then close its connection."""
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
        """All shells are in the barrier, and ``values`` are those of all of them: let the tasks go on."""
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
            # What tasks send while they are killed does not matter.
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
    """A task may close its end without having ended."""
