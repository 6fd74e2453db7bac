"""Links between brokers carry what clients ask for, and clients that do not read cost the others nothing."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

import pytest_flux
from pytest_flux import FluxInstance
from pytest_flux.client import Flux
from pytest_flux.client.kvs import Kvs
from pytest_flux.protocol import limits
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.framing import MAX_MESSAGE, FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    FLAG_STREAMING,
    NODEID_ANY,
    REQUEST,
    ROLE_OWNER,
    Message,
    encode_json,
)

MEGABYTE = 1 << 20
LOOKUP = {"key": "big", "flags": 0, "namespace": "primary"}
PEAK = 200 * MEGABYTE
"""What no broker may need, whatever clients do."""


def local(flux: FluxInstance, rank: int = 0) -> str:
    return flux.uri.replace("local-0", f"local-{rank}")


def memory(flux: FluxInstance) -> int:
    """The most that a broker has needed until now (the peak of its resident set)."""
    peaks = []
    for broker in flux.brokers:
        with open(f"/proc/{broker.pid}/status", encoding="ascii") as file:
            peaks += [int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:")]
    return max(peaks)


class Client:
    """A client that writes and reads when the test says so."""

    def __init__(self, uri: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(uri.removeprefix("local://"))
        self._decoder = FrameDecoder()
        assert self._socket.recv(1) == b"\0"

    def request(self, topic: str, payload: dict[str, object], count: int = 1, flags: int = 0) -> None:
        """Send requests with the matchtags from 1 on."""
        self._socket.sendall(
            b"".join(
                encode_frame(
                    Message(
                        REQUEST,
                        topic,
                        encode_json(payload),
                        flags=flags,
                        aux1=NODEID_ANY,
                        aux2=number + 1,
                        routes=[],
                    )
                )
                for number in range(count)
            )
        )

    def send(self, data: bytes) -> bool:
        """Send bytes. Returns whether the broker took them all."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def read(self, count: int) -> list[Message]:
        """The next answers. OSError or EOFError if the broker hangs up before."""
        got: list[Message] = []
        while len(got) < count:
            data = self._socket.recv(MEGABYTE)
            if not data:
                raise EOFError
            got += self._decoder.feed(data)
        return got

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


def put_big(flux: FluxInstance) -> None:
    with Flux(flux.uri) as handle:
        Kvs(handle).put("big", os.urandom(MEGABYTE))


def check(flux: FluxInstance) -> None:
    """Every broker answers others."""
    for rank in range(len(flux.brokers)):
        with Flux(local(flux, rank)) as handle:
            assert handle.rpc("broker.ping", {"a": rank}).get(20)["a"] == rank


@pytest.mark.parametrize("hops", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_many_answers_of_a_megabyte(hops: int) -> None:
    with pytest_flux.start(size=hops + 1, broker="embedded", attrs={"tbon.topo": "kary:1"}) as flux:
        put_big(flux)
        with Flux(local(flux, hops)) as handle:
            rpcs = [handle.rpc("kvs.lookup", dict(LOOKUP)) for _ in range(200)]
            assert all(len(rpc.get(60)["val"]["data"]) > MEGABYTE for rpc in rpcs)
        assert memory(flux) < PEAK
        check(flux)


@pytest.mark.slow
def test_who_reads_late_gets_all(clients: list[Client]) -> None:
    """More than any buffer holds is written before a byte is read; the requests alone fill the socket."""
    with pytest_flux.start(size=2, broker="embedded") as flux:
        put_big(flux)
        client = Client(local(flux, 1))
        clients.append(client)
        client.request("kvs.lookup", LOOKUP, 300)
        check(flux)
        answers = client.read(300)
        assert [message.matchtag for message in answers] == list(range(1, 301))
        assert not any(message.errnum for message in answers)
        assert memory(flux) < PEAK


def test_clients_that_never_read(clients: list[Client]) -> None:
    with pytest_flux.start(size=1, broker="embedded") as flux:
        put_big(flux)
        for _ in range(20):
            client = Client(flux.uri)
            clients.append(client)
            client.request("kvs.lookup", LOOKUP, 60)
        for _ in range(20):
            check(flux)
        assert memory(flux) < PEAK
        for client in clients:
            client.close()
        check(flux)


@pytest.mark.slow
def test_events_for_who_never_reads(clients: list[Client]) -> None:
    with pytest_flux.start(size=1, broker="embedded") as flux:
        for _ in range(5):
            client = Client(flux.uri)
            clients.append(client)
            client.request("event.subscribe", {"topic": "big"})
            client.read(1)
        with Flux(flux.uri) as handle:
            for number in range(100):
                handle.publish("big", {"n": number, "pad": "x" * MEGABYTE})
            assert handle.rpc("broker.ping", {"a": 1}).get(60)["a"] == 1
        assert memory(flux) < PEAK
        assert [message.topic for message in clients[0].read(100)] == ["big"] * 100


@pytest.mark.slow
def test_unfinished_messages(clients: list[Client]) -> None:
    """Clients that begin large messages and end none: the longest is cut off, and a proper one gets through."""
    part = b"x" * (MAX_MESSAGE // 4)
    frame = encode_frame(Message(REQUEST, "kvs.commit", b"x", aux1=NODEID_ANY, aux2=1, routes=[]))
    head = frame[:4] + (MAX_MESSAGE - 8).to_bytes(4, "big")
    with pytest_flux.start(size=1, broker="embedded") as flux:
        taken = 0
        for _ in range(8):
            client = Client(flux.uri)
            clients.append(client)
            taken += client.send(head + part + part)
        check(flux)
        assert taken
        alive = [client for client in clients if client.send(b"xxxx")]
        assert len(alive) <= limits.UNFINISHED_OF_CLIENTS // (2 * len(part)) + 1
        assert memory(flux) < PEAK + limits.UNFINISHED_OF_CLIENTS * 2
        with Flux(flux.uri) as handle:
            Kvs(handle).put("a", "b")


@pytest.mark.slow
def test_too_many_open_requests(clients: list[Client]) -> None:
    with pytest_flux.start(size=1, broker="embedded") as flux:
        client = Client(flux.uri)
        clients.append(client)
        extra = 3
        for start in range(0, limits.OPEN_REQUESTS_OF_CLIENT, 1 << 12):
            frames = [
                encode_frame(
                    Message(
                        REQUEST,
                        "kvs.wait-version",
                        encode_json({"rootseq": 1 << 30, "namespace": "primary"}),
                        aux1=NODEID_ANY,
                        aux2=start + number + 1,
                        routes=[],
                    )
                )
                for number in range(1 << 12)
            ]
            assert client.send(b"".join(frames))
        for number in range(extra):
            message = Message(
                REQUEST, "broker.ping", b'{"a":1}\0', aux1=NODEID_ANY, aux2=(1 << 20) + number, routes=[]
            )
            assert client.send(encode_frame(message))
        text = f"over the limit of {limits.OPEN_REQUESTS_OF_CLIENT} open requests"
        assert [(m.errnum, m.text()) for m in client.read(extra)] == [(errno.EAGAIN, text)] * extra
        check(flux)


def test_too_many_subscriptions() -> None:
    with pytest_flux.start(size=1, broker="embedded") as flux, Flux(flux.uri) as handle:
        for number in range(limits.SUBSCRIPTIONS_OF_CLIENT):
            handle.rpc("event.subscribe", {"topic": f"t{number}"}).get(20)
        with pytest.raises(FluxError) as caught:
            handle.rpc("event.subscribe", {"topic": "more"}).get(20)
        assert caught.value.errnum == errno.ENOSPC
        assert caught.value.text == f"over the limit of {limits.SUBSCRIPTIONS_OF_CLIENT} subscriptions"
        handle.rpc("event.subscribe", {"topic": "t1"}).get(20)
        check(flux)


def test_a_stranger_is_no_rank() -> None:
    """A process of the same user says hello as rank 1: it is refused, and the true rank 1 stays."""
    with pytest_flux.start(size=2, broker="embedded") as flux:
        path = f"{os.path.dirname(flux.uri.removeprefix('local://'))}/tbon-0"
        with Flux(flux.uri) as handle:
            version = handle.rpc("attr.get", {"name": "version"}).get(20)["value"]
        stranger = Client(path)
        hello = {"rank": 1, "version": version, "uuid": "u", "status": 1, "hostname": "h"}
        message = Message(
            REQUEST,
            "overlay.hello",
            encode_json(hello),
            aux1=NODEID_ANY,
            aux2=1,
            userid=os.getuid(),
            rolemask=ROLE_OWNER,
            routes=["u"],
        )
        assert stranger.send(encode_frame(message))
        (answer,) = stranger.read(1)
        stranger.close()
        assert answer.errnum == errno.EPERM
        with Flux(flux.uri) as handle:
            assert handle.rpc("broker.ping", {"a": 1}, nodeid=1).get(20)["a"] == 1
            health = handle.rpc("overlay.health", {}).get(20)
            assert [(child["rank"], child["status"]) for child in health["children"]] == [(1, "full")]


def test_a_watcher_that_never_reads_is_no_burden(clients: list[Client]) -> None:
    with pytest_flux.start(size=2, broker="embedded") as flux:
        client = Client(local(flux, 1))
        clients.append(client)
        watch = {"key": "big", "flags": 4 | 8, "namespace": "primary"}
        client.request("kvs-watch.lookup", watch, 1, FLAG_STREAMING)
        with Flux(flux.uri) as handle:
            for _ in range(30):
                Kvs(handle).put("big", os.urandom(MEGABYTE))
        check(flux)
        assert memory(flux) < PEAK


def test_nothing_is_left_of_spools(clients: list[Client]) -> None:
    with pytest_flux.start(size=1, broker="embedded") as flux:
        put_big(flux)
        client = Client(flux.uri)
        clients.append(client)
        client.request("kvs.lookup", LOOKUP, 30)
        check(flux)
        rundir = os.path.dirname(flux.uri.removeprefix("local://"))
        assert not [name for name in os.listdir(rundir) if name.startswith(".spool")]
