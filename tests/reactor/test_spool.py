"""Bytes in a file: in their order, without a name, and gone when they were read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.protocol.limits import UNREAD_IN_MEMORY
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.spool import Spool
from pytest_flux.reactor.stream import Stream


@given(st.lists(st.one_of(st.binary(max_size=100), st.integers(0, 150)), max_size=30))
def test_first_in_first_out(tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | int]) -> None:
    spool = Spool(str(tmp_path_factory.getbasetemp()))
    written = read = b""
    for step in steps:
        if isinstance(step, bytes):
            spool.write(step)
            written += step
        elif len(spool):
            read += spool.read(step)
        assert len(spool) == len(written) - len(read)
    while len(spool):
        read += spool.read(7)
    assert read == written
    spool.close()


def test_there_is_no_file_to_be_found(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write(b"x" * 100)
    assert list(tmp_path.iterdir()) == []
    spool.close()
    assert len(spool) == 0


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Spool(f"{tmp_path}/missing").write(b"x")


def test_a_stream_keeps_the_order_between_memory_and_file(tmp_path: Path) -> None:
    reactor = Reactor()
    ours, peer = socket.socketpair()
    stream = Stream(reactor, ours, lambda _: None, lambda: None, limit=1 << 30, spool=str(tmp_path))
    expected = bytearray()
    drained: list[int] = []
    for number in range(3000):
        data = number.to_bytes(4, "big") * 2500
        stream.write(data)
        expected += data
    assert stream.unsent > 4 * UNREAD_IN_MEMORY
    for size in (UNREAD_IN_MEMORY, 0):
        stream.when_below(size, lambda size=size: drained.append(size))  # type: ignore[misc]
    got = bytearray()
    peer.setblocking(False)

    def read() -> None:
        nonlocal got
        got += peer.recv(1 << 20)
        if len(got) > len(expected) // 2 and len(expected) < 31_000_000:
            # More comes while there is something in the file.
            stream.write(b"late" * 250_000)
            expected.extend(b"late" * 250_000)
        if len(got) == len(expected):
            reactor.stop()

    reactor.on_readable(peer.fileno(), read)
    late = reactor.call_later(20, reactor.stop)
    reactor.run()
    late.cancel()
    assert bytes(got) == bytes(expected)
    assert drained == [UNREAD_IN_MEMORY, 0]
    assert stream.unsent == 0
    stream.close()
    peer.close()
    reactor.close()


def test_a_full_disk_cuts_the_peer_off(tmp_path: Path) -> None:
    """A file that cannot grow is as good as none: the peer is lost, and nobody else."""
    reactor = Reactor()
    ours, peer = socket.socketpair()
    closed: list[None] = []
    stream = Stream(
        reactor, ours, lambda _: None, lambda: closed.append(None), limit=1 << 30, spool=f"{tmp_path}/missing"
    )
    for _ in range(UNREAD_IN_MEMORY // 50_000 + 10):
        stream.write(b"x" * 100_000)
    reactor.call_later(0.0, reactor.stop)
    reactor.run()
    assert closed == [None]
    assert not stream.is_open
    peer.close()
    reactor.close()
    assert os.listdir(tmp_path) == []
