"""Pipes on the reactor, and lines in what comes out of them."""

from __future__ import annotations

import os

import pytest

from pytest_flux.reactor.pipe import LineBuffer, PipeReader, PipeWriter
from pytest_flux.reactor.reactor import Reactor


@pytest.mark.parametrize(
    ("fed", "passed_on"),
    [
        ([b"one\ntwo\n", b""], [[b"one\n", b"two\n"], []]),
        ([b"on", b"e\ntw", b"o", b""], [[], [b"one\n"], [], [b"two"]]),
        ([b"\n\n", b""], [[b"\n", b"\n"], []]),
        ([b"12345678", b"9\n", b""], [[b"12345678"], [b"9\n"], []]),
        ([b"1234567", b"8", b"9", b""], [[], [b"12345678"], [], [b"9"]]),
        ([b"a\n12345678", b""], [[b"a\n", b"12345678"], []]),
        ([b""], [[]]),
    ],
)
def test_lines(fed: list[bytes], passed_on: list[list[bytes]]) -> None:
    lines = LineBuffer(8)
    assert [lines.feed(data) for data in fed] == passed_on


def test_without_a_length_nothing_is_held_back() -> None:
    assert LineBuffer(1).feed(b"one\ntw") == [b"one\n", b"tw"]


def test_what_is_written_is_read_and_so_is_the_end() -> None:
    reactor = Reactor()
    deadline = reactor.call_later(10, reactor.stop)
    reading, writing = os.pipe()
    taken: list[int] = []
    seen = bytearray()

    def read(data: bytes) -> None:
        seen.extend(data)
        if not data:
            reactor.stop()

    reader = PipeReader(reactor, reading, read)
    writer = PipeWriter(reactor, writing, taken.append)
    text = b"0123456789" * 50_000
    writer.write(text)
    writer.end()
    writer.write(b"too late")
    reactor.run()
    assert deadline.callback is not None
    assert (bytes(seen), sum(taken)) == (text, len(text))
    assert not reader.is_open
    reactor.close()


def test_a_paused_reader_reads_on_later() -> None:
    reactor = Reactor()
    deadline = reactor.call_later(10, reactor.stop)
    reading, writing = os.pipe()
    seen: list[bytes] = []

    def read(data: bytes) -> None:
        seen.append(data)
        reactor.stop()

    def read_on() -> None:
        seen.append(b"paused")
        reader.pause(False)

    reader = PipeReader(reactor, reading, read)
    reader.pause(True)
    os.write(writing, b"word")
    reactor.call_later(0.01, read_on)
    reactor.run()
    assert deadline.callback is not None
    assert seen == [b"paused", b"word"]
    reader.close()
    reader.close()
    os.close(writing)
    reactor.close()
