"""The local socket, byte by byte: who may connect, what is stamped on messages, and clients that misbehave."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator

import psutil
import pytest

from pytest_flux.client import Flux
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    CONTROL,
    EVENT,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_LOCAL,
    ROLE_OWNER,
    USERID_UNKNOWN,
    Message,
    encode_json,
)
from tests.parity.differences import differs
from tests.parity.instances import Engine, Running, eventually

WAIT = 10.0
MAGIC = struct.pack("=I", 0xFFEE0012)


class Raw:
    """A connection on which any bytes can be sent."""

    def __init__(self, rundir: str, rank: int = 0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT)
        self.socket.connect(f"{rundir}/local-{rank}")
        self.greeting = self.socket.recv(1)
        self._decoder = FrameDecoder()

    def close(self) -> None:
        self.socket.close()

    def send(self, message: Message) -> None:
        self.socket.sendall(encode_frame(message))

    def receive(self) -> Message:
        while True:
            data = self.socket.recv(65536)
            assert data, "the broker has hung up"
            for message in self._decoder.feed(data):
                return message

    def is_dropped(self) -> bool:
        """Whether the broker hangs up."""
        try:
            return self.socket.recv(65536) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def raw(three: Running) -> Iterator[Raw]:
    connection = Raw(three.rundir)
    yield connection
    connection.close()


def request(topic: str | None = "attr.get", **options: int) -> Message:
    return Message(REQUEST, topic, encode_json({"name": "rank"}), aux1=NODEID_ANY, routes=[], **options)


def test_greeting_and_answer(raw: Raw) -> None:
    assert raw.greeting == b"\0"
    raw.send(request(aux2=17))
    answer = raw.receive()
    assert (answer.type, answer.topic, answer.matchtag, answer.errnum) == (RESPONSE, "attr.get", 17, 0)
    assert answer.routes == []
    assert answer.payload is not None
    assert answer.payload.endswith(b"\0")
    assert answer.json() == {"value": "0", "flags": 1}
    assert (answer.userid, answer.rolemask) == (os.getuid(), ROLE_OWNER | ROLE_LOCAL)


def test_request_without_routes_is_answered(raw: Raw) -> None:
    message = request(aux2=3)
    message.routes = None
    raw.send(message)
    assert raw.receive().matchtag == 3


def test_byte_by_byte(raw: Raw) -> None:
    for byte in encode_frame(request(aux2=5)):
        raw.socket.sendall(bytes([byte]))
    assert raw.receive().matchtag == 5


def test_many_at_once(raw: Raw) -> None:
    raw.socket.sendall(b"".join(encode_frame(request(aux2=number)) for number in range(1, 101)))
    tags: list[int] = []
    while len(tags) < 100:
        tags += [message.matchtag for message in raw._decoder.feed(raw.socket.recv(65536))]
    assert tags == list(range(1, 101))


def test_credentials_of_an_owner_may_be_others(raw: Raw) -> None:
    raw.send(Message(REQUEST, "broker.ping", b"{}\0", aux1=NODEID_ANY, aux2=1, routes=[], userid=4242, rolemask=2))
    answer = raw.receive().json()
    assert (answer["userid"], answer["rolemask"]) == (4242, 2)
    raw.send(Message(REQUEST, "broker.ping", b"{}\0", aux1=NODEID_ANY, aux2=1, routes=[], userid=USERID_UNKNOWN))
    answer = raw.receive().json()
    assert (answer["userid"], answer["rolemask"]) == (os.getuid(), ROLE_OWNER | ROLE_LOCAL)


def test_what_is_no_request_is_not_answered(raw: Raw) -> None:
    raw.send(request(None, aux2=1))
    raw.send(Message(CONTROL, aux1=1, aux2=2))
    raw.send(Message(RESPONSE, "nobody.asked", aux2=4, routes=["nobody"]))
    raw.send(Message(RESPONSE, "nobody.asked", aux2=4))
    raw.send(Message(EVENT, "no.subscriber", aux1=77))
    raw.send(request(aux2=9))
    assert raw.receive().matchtag == 9


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        MAGIC + (5).to_bytes(4, "big") + b"xxxxx",
        MAGIC + (0).to_bytes(4, "big"),
        MAGIC + (21).to_bytes(4, "big") + b"\x14" + b"\x8e\x02" + bytes(18),
        MAGIC + (4).to_bytes(4, "big") + b"\xff\xff\xff\xff",
    ],
    ids=["http", "no message", "empty", "version", "part size"],
)
def test_garbage_is_cut_off(three: Running, engine: Engine, raw: Raw, flux: Flux, garbage: bytes) -> None:
    if len(garbage) == 8 and not differs(engine, "hostile clients harm themselves"):
        pytest.skip("a message without parts crashes a real broker")
    raw.socket.sendall(garbage)
    assert raw.is_dropped()
    assert flux.rpc("attr.get", {"name": "size"}).get(WAIT)["value"] == "3"


def test_half_a_frame_harms_nobody(three: Running, raw: Raw, flux: Flux) -> None:
    frame = encode_frame(request(aux2=5))
    raw.socket.sendall(frame[:11])
    assert flux.rpc("attr.get", {"name": "size"}).get(WAIT)["value"] == "3"
    raw.socket.sendall(frame[11:])
    assert raw.receive().matchtag == 5
    raw.socket.sendall(frame[:11])
    raw.close()
    assert flux.rpc("attr.get", {"name": "size"}).get(WAIT)["value"] == "3"


def test_stuck_greeting_harms_nobody(three: Running, flux: Flux) -> None:
    connections = []
    try:
        for _ in range(50):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(f"{three.rundir}/local-0")
            connections.append(connection)
        assert flux.rpc("attr.get", {"name": "size"}).get(WAIT)["value"] == "3"
    finally:
        for connection in connections:
            connection.close()


def _memory(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def test_enormous_length_is_refused(three: Running, engine: Engine, raw: Raw, flux: Flux) -> None:
    if not differs(engine, "hostile clients harm themselves"):
        pytest.skip("a real broker would set aside as much memory")
    pid = three.pids()[0]
    before = _memory(pid)
    raw.socket.sendall(MAGIC + b"\xff\xff\xff\xff" + b"x" * 100_000)
    assert raw.is_dropped()
    assert _memory(pid) < before + 10_000_000
    assert flux.rpc("attr.get", {"name": "size"}).get(WAIT)["value"] == "3"


def test_client_that_never_reads(three: Running, engine: Engine, raw: Raw, flux: Flux) -> None:
    """It is cut off before it costs much; meanwhile the others are served."""
    if not differs(engine, "hostile clients harm themselves"):
        pytest.skip("a real broker keeps everything for it")
    pid = three.pids()[0]
    before = _memory(pid)
    ping = encode_frame(
        Message(REQUEST, "broker.ping", encode_json({"pad": "x" * 1_000_000}), aux1=NODEID_ANY, aux2=1, routes=[])
    )
    deadline = time.monotonic() + 30
    poll = select.poll()
    poll.register(raw.socket, select.POLLOUT)
    raw.socket.setblocking(False)
    unsent = b""
    cut = False
    while not cut:
        assert time.monotonic() < deadline
        poll.poll(100)
        unsent = unsent or ping
        try:
            unsent = unsent[raw.socket.send(unsent) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            cut = True
        assert _memory(pid) < before + 200_000_000
    assert flux.rpc("attr.get", {"name": "size"}).get(WAIT)["value"] == "3"
    eventually(lambda: _memory(pid) < before + 100_000_000, "memory is not given back")


def test_connections_come_and_go(three: Running, flux: Flux) -> None:
    pid = three.pids()[1]

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    before = descriptors()
    for _ in range(100):
        with Flux(f"local://{three.rundir}/local-1") as client:
            client.subscribe("x")
            assert client.rank == 1
    eventually(lambda: descriptors() <= before, "connections are left")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_other_users_are_refused(three: Running) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            os.write(write, Raw(three.rundir).greeting)
        except OSError as error:
            os.write(write, bytes([error.errno or 0]))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    greeting = os.read(read, 1)
    os.close(read)
    os.close(write)
    # EPERM from the broker, or EACCES because the directory is ours alone.
    assert greeting in (b"\x01", b"\x0d")
