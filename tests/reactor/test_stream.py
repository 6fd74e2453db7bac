"""Streams: buffered writing, ends from either side, and peers that do not read."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.stream import Stream

MEGABYTE = 1 << 20


class Pair:
    """A stream, its peer as plain socket, and what the stream has called back with."""

    def __init__(self, limit: int) -> None:
        self.reactor = Reactor()
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.received = b""
        self.closed = 0
        self.stream = Stream(self.reactor, ours, self._receive, self._close, limit=limit)

    def _receive(self, data: bytes) -> None:
        self.received += data

    def _close(self) -> None:
        self.closed += 1

    def work(self) -> None:
        """Do what there is to do now."""
        self.reactor.call_later(0.002, self.reactor.stop)
        self.reactor.run()

    def read_all(self) -> bytes:
        """What the peer gets until there is no more."""
        got = b""
        while True:
            try:
                data = self.peer.recv(MEGABYTE)
            except BlockingIOError:
                before = len(got)
                self.work()
                try:
                    data = self.peer.recv(MEGABYTE)
                except BlockingIOError:
                    assert len(got) == before
                    return got
            if not data:
                return got
            got += data


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair(8 * MEGABYTE)
    yield pair
    pair.stream.close()
    pair.peer.close()
    pair.reactor.close()


def test_data_comes_as_it_is_sent(pair: Pair) -> None:
    pair.peer.send(b"abc")
    pair.work()
    pair.peer.send(b"def")
    pair.work()
    assert (pair.received, pair.closed) == (b"abcdef", 0)


def test_peer_gets_in_order_what_it_is_slow_to_read(pair: Pair) -> None:
    chunks = [bytes([number]) * 100_000 for number in range(40)]
    for chunk in chunks:
        pair.stream.write(chunk)
    assert pair.read_all() == b"".join(chunks)
    assert pair.stream.is_open


def test_end_of_the_peer_is_told_once(pair: Pair) -> None:
    pair.peer.send(b"last")
    pair.peer.close()
    pair.work()
    pair.work()
    assert (pair.received, pair.closed, pair.stream.is_open) == (b"last", 1, False)
    pair.stream.write(b"too late")
    pair.stream.close()
    assert pair.closed == 1


def test_writing_to_a_peer_that_is_gone_tells_its_end_later(pair: Pair) -> None:
    pair.peer.close()
    pair.stream.write(b"x")
    # Not from within write: whoever writes is in the middle of something.
    assert pair.closed == 0
    pair.work()
    assert pair.closed == 1


def test_close_of_our_own_is_not_told(pair: Pair) -> None:
    pair.stream.close()
    pair.work()
    assert (pair.closed, pair.peer.recv(1)) == (0, b"")


def test_flushing_close_sends_everything_first(pair: Pair) -> None:
    data = bytes(4 * MEGABYTE)
    pair.stream.write(data)
    pair.stream.close(flush=True)
    pair.stream.write(b"too late")
    assert pair.read_all() == data
    assert not pair.stream.is_open
    assert pair.closed == 0


def test_peer_that_does_not_read_is_cut_off(pair: Pair) -> None:
    for _ in range(10):
        pair.stream.write(bytes(MEGABYTE))
    pair.work()
    assert (pair.closed, pair.stream.is_open) == (1, False)


def test_nothing_follows_what_a_peer_got_that_is_cut_off(pair: Pair) -> None:
    pair.stream.write(bytes(10 * MEGABYTE))
    assert pair.peer.recv(MEGABYTE)
    pair.stream.write(b"tail")
    assert not pair.read_all().endswith(b"tail")
    assert pair.closed == 1


def test_rest_is_read_at_once(pair: Pair) -> None:
    pair.peer.send(bytes(100_000))
    pair.peer.close()
    pair.stream.read_rest()
    assert (len(pair.received), pair.closed) == (100_000, 1)
    pair.stream.read_rest()


def test_rest_of_a_peer_that_is_alive_is_what_is_there(pair: Pair) -> None:
    pair.peer.send(b"abc")
    pair.stream.read_rest()
    assert (pair.received, pair.closed, pair.stream.is_open) == (b"abc", 0, True)
