"""Decoders and sockets under hostile input: an error each, no crash, no hang, no growth."""

from __future__ import annotations

import itertools
import resource
import socket
from collections.abc import Iterator

import psutil
import pytest

from pytest_flux.client import Flux
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.instance.settings import Settings
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder
from pytest_flux.protocol.message import decode_message
from pytest_flux.protocol.pmi_server import PmiServer
from tests.fuzz.generator import hostile_frames, hostile_pmi

COUNTS = [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.soak])]
SOCKET_COUNTS = [500, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.soak])]
GROWTH = 32 * 1024 * 1024


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("count", COUNTS)
def test_pmi_server(count: int) -> None:
    server = PmiServer(64)
    before = _peak_memory()
    errors = 0
    for number, data in enumerate(itertools.islice(hostile_pmi(1), count)):
        rank = number % 64
        if number % 1000 == 0:
            # A client that has begun to spawn something listens to nothing but its end: begin anew.
            server = PmiServer(64)
        try:
            server.receive(rank, data)
        except ProtocolError:
            errors += 1
            server.disconnect(rank)
    assert errors > count // 20
    assert _peak_memory() - before < GROWTH


@pytest.mark.parametrize("count", COUNTS)
def test_message_decoder(count: int) -> None:
    before = _peak_memory()
    errors = 0
    for data in itertools.islice(hostile_frames(2), count):
        try:
            decode_message(data[8:]).encode()
        except ProtocolError:
            errors += 1
    assert errors > count // 20
    assert _peak_memory() - before < GROWTH


@pytest.mark.parametrize("count", COUNTS)
def test_frame_decoder(count: int) -> None:
    decoder, held = FrameDecoder(limit=1 << 16), 0
    before = _peak_memory()
    errors = 0
    for data in itertools.islice(hostile_frames(3), count):
        held += len(data)
        try:
            if decoder.feed(data):
                held = 0
        except ProtocolError:
            errors += 1
            decoder, held = FrameDecoder(limit=1 << 16), 0
        assert held <= 1 << 20
    assert errors > count // 20
    assert _peak_memory() - before < GROWTH


@pytest.fixture(scope="module")
def instance() -> Iterator[FluxInstance]:
    with FluxInstance(Settings(size=2, broker="embedded")) as running:
        yield running


def _attack(path: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


@pytest.mark.parametrize("count", SOCKET_COUNTS)
@pytest.mark.parametrize("name", ["local-0", "local-1", "tbon-0", "start"])
def test_sockets_of_an_instance(instance: FluxInstance, name: str, count: int) -> None:
    """Whatever a client sends, others are served, and the processes stay and do not grow."""
    path = f"{instance.rundir}/{name}"
    pids = [int(instance.rpc("attr.get", {"name": "broker.pid"}, rank=rank)["value"]) for rank in range(2)]
    before = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    for data in itertools.islice(hostile_frames(4), count):
        _attack(path, data)
    with Flux(instance.uri) as flux:
        assert flux.rpc("overlay.health").get(10)["status"] == "full"
    assert sum(psutil.Process(pid).memory_info().rss for pid in pids) - before < GROWTH
