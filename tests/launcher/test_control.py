"""The `start` service: requests over its socket, and what they do to brokers."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    FLAG_NORESPONSE,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    ROLE_OWNER,
    Message,
    encode_json,
)
from tests.launcher.sessions import DEADLINE, Session, Start, start

__all__ = ["start"]


class Client:
    """As much of a Flux handle as it takes."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(path)
        assert self._socket.recv(1) == b"\0"
        self._decoder = FrameDecoder()
        self._messages: list[Message] = []

    def close(self) -> None:
        self._socket.close()

    def send(self, topic: str, payload: dict[str, Any] | bytes | None = None, tag: int = 1, flags: int = 0) -> None:
        data = encode_json(payload) if isinstance(payload, dict) else payload
        message = Message(REQUEST, topic, data, aux1=NODEID_ANY, aux2=tag, routes=[], flags=flags)
        self._socket.sendall(encode_frame(message))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def is_closed(self) -> bool:
        """Whether the service closes the connection rather than say something."""
        return self._socket.recv(1) == b""

    def receive(self) -> Message:
        while not self._messages:
            data = self._socket.recv(65536)
            assert data, "the service has closed the connection"
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    def rpc(self, topic: str, payload: dict[str, Any] | bytes | None = None) -> Message:
        self.send(topic, payload)
        return self.receive()


@contextlib.contextmanager
def connected(session: Session) -> Iterator[Client]:
    client = Client(session.stdout.line())
    try:
        yield client
    finally:
        client.close()


# Rank 0 tells where the service is, and lives as long as somebody can write to the FIFO.
BROKER = """
mkfifo fifo-$PMI_RANK.$$; trap 'exit 4' TERM; trap 'exit 5' USR1
[ $PMI_RANK = 0 ] && echo ${FLUX_START_URI#local://}
read x <> fifo-$PMI_RANK.$$
"""


def test_status_lists_process_ids_by_rank(start: Start) -> None:
    session = start("-s3", "--test-start-mode=leader", broker=BROKER)
    with connected(session) as client:
        response = client.rpc("start.status", {"ignored": 1})
        assert response.json() == {"procs": [{"pid": session.brokers()[0]}, {"pid": -1}, {"pid": -1}]}
        client.rpc("start.kill", {"rank": 0, "signum": 9})
        session.end()


def test_responses_are_what_clients_of_flux_take(start: Start) -> None:
    session = start("-s1", broker=BROKER)
    with connected(session) as client:
        client.send("start.kill", {"rank": 0, "signum": 0}, tag=7)
        client.send("start.status", tag=8)
        client.send("start.kill", {"rank": 0, "signum": 15}, tag=9)
        for tag, errnum in ((7, errno.EINVAL), (8, 0), (9, 0)):
            response = client.receive()
            assert (response.type, response.matchtag, response.errnum) == (RESPONSE, tag, errnum)
            # libflux drops messages without a role, and matches a response by its empty route stack.
            assert (response.userid, response.rolemask, response.routes) == (os.getuid(), ROLE_OWNER, [])
    assert session.end().code == 4


# As flux-start 0.88 answered; its rank 0 was running, its rank 1 was not.
@pytest.mark.parametrize(
    ("topic", "payload", "errnum", "text"),
    [
        ("start.kill", {"rank": 0, "signum": 0}, errno.EINVAL, None),
        ("start.kill", {"rank": 7, "signum": 15}, errno.ESRCH, None),
        ("start.kill", {"rank": -1, "signum": 15}, errno.ESRCH, None),
        ("start.kill", {"rank": "x", "signum": 15}, errno.EPROTO, None),
        ("start.kill", {"rank": True, "signum": 15}, errno.EPROTO, None),
        ("start.kill", {"rank": 0}, errno.EPROTO, None),
        ("start.kill", None, errno.EPROTO, None),
        ("start.kill", b"not json\0", errno.EPROTO, None),
        ("start.kill", {"rank": 0, "signum": 9999}, 0, None),
        ("start.kill", {"rank": 0, "signum": -1}, 0, None),
        ("start.kill", {"rank": 0, "signum": 10**30}, errno.EPROTO, None),
        ("start.kill", {"rank": 1, "signum": 0}, 0, None),
        ("start.wait", {"rank": 7}, errno.ESRCH, None),
        ("start.wait", {"rank": 1.0}, errno.EPROTO, None),
        ("start.run", {"rank": 0}, errno.EEXIST, None),
        ("start.run", {"rank": 7}, errno.ESRCH, None),
        ("start.foo", None, errno.ENOSYS, "Unknown service method 'start.foo'"),
        ("foo.bar", None, errno.ENOSYS, "Unknown service method 'foo.bar'"),
        ("start", None, errno.ENOSYS, "Unknown service method 'start'"),
    ],
)
def test_errors_are_those_of_flux(
    start: Start, topic: str, payload: dict[str, Any] | bytes | None, errnum: int, text: str | None
) -> None:
    session = start("-s2", "--test-start-mode=leader", broker=BROKER)
    with connected(session) as client:
        response = client.rpc(topic, payload)
        assert response.errnum == errnum
        assert response.payload == (None if text is None else text.encode() + b"\0")
        client.rpc("start.kill", {"rank": 0, "signum": 15})
    assert session.end().code == 4


def test_wait_returns_when_the_broker_ends(start: Start) -> None:
    session = start("-s2", broker=BROKER)
    with connected(session) as client:
        client.send("start.wait", {"rank": 1}, tag=1)
        client.send("start.wait", {"rank": 1}, tag=2)
        second = client.receive()
        assert (second.matchtag, second.errnum) == (2, errno.EEXIST)
        client.send("start.kill", {"rank": 1, "signum": 10}, tag=3)
        assert client.receive().matchtag == 3
        first = client.receive()
        assert (first.matchtag, first.json()) == (1, {"exit_rc": 5})
        assert client.rpc("start.wait", {"rank": 1}).json() == {"exit_rc": 5}
        client.send("start.wait", {"rank": 0}, tag=4)
        client.send("start.kill", {"rank": 0, "signum": 9}, tag=5)
        answers = {message.matchtag: message for message in (client.receive(), client.receive())}
        assert answers[4].json() == {"exit_rc": 137}
    assert session.end().code == 137


def test_waiter_that_leaves_makes_room_for_another(start: Start) -> None:
    session = start("-s1", broker=BROKER)
    path = session.stdout.line()
    with contextlib.closing(Client(path)) as first:
        first.send("start.wait", {"rank": 0})
        first.rpc("start.status")
    with contextlib.closing(Client(path)) as second:
        answered = 1
        while answered == 1:
            # Refused as long as the end of the first connection has not been noticed.
            second.send("start.wait", {"rank": 0}, tag=1)
            second.send("start.status", tag=2)
            answered = second.receive().matchtag
            if answered == 1:
                assert second.receive().matchtag == 2
        second.send("start.kill", {"rank": 0, "signum": 15}, tag=3)
        assert second.receive().matchtag == 3
        assert second.receive().json() == {"exit_rc": 4}
    session.end()


def test_run_starts_a_rank_and_starts_it_again(start: Start) -> None:
    session = start("-s2", "--test-start-mode=leader", "--test-exit-timeout=inf", broker=BROKER)
    with connected(session) as client:
        for _ in range(2):
            assert client.rpc("start.run", {"rank": 1}).errnum == 0
            pid = client.rpc("start.status").json()["procs"][1]["pid"]
            assert pid in session.brokers()
            assert client.rpc("start.run", {"rank": 1}).errnum == errno.EEXIST
            client.rpc("start.kill", {"rank": 1, "signum": 9})
            assert client.rpc("start.wait", {"rank": 1}).json() == {"exit_rc": 137}
        client.rpc("start.kill", {"rank": 0, "signum": 9})
        session.end()


def test_run_that_fails_says_why_and_leaves_the_session_alone(start: Start) -> None:
    session = start("-s2", "--test-start-mode=leader", broker=BROKER)
    with connected(session) as client:
        (start.directory / "flux-broker").chmod(0o644)
        response = client.rpc("start.run", {"rank": 1})
        assert response.errnum == errno.EIO
        assert response.payload == f"{start.directory}/flux-broker: Permission denied\0".encode()
        assert client.rpc("start.status").errnum == 0
        client.rpc("start.kill", {"rank": 0, "signum": 15})
    assert session.end().code == 4


def test_restarted_rank_does_not_stop_the_exit_timer(start: Start) -> None:
    # So it is with flux-start, which looks only when a broker ends.
    session = start("-s2", "--test-exit-timeout=0.5s", broker=BROKER)
    with connected(session) as client:
        client.rpc("start.kill", {"rank": 1, "signum": 9})
        client.rpc("start.wait", {"rank": 1})
        client.rpc("start.run", {"rank": 1})
        assert "flux-start: Exit timeout: killed rank 0-1\n" in session.end().stderr


def test_clients_come_and_go_with_a_word(start: Start) -> None:
    session = start("-v", "-s1", broker=BROKER)
    with connected(session) as client:
        client.send("start.kill", {"rank": 0, "signum": 0}, flags=FLAG_NORESPONSE)
        client.send("disconnect", flags=FLAG_NORESPONSE)
        assert client.rpc("start.status").errnum == 0
    session.stderr.line()
    hi, bye, disconnect = (session.stderr.line() for _ in range(3))
    uuid = hi[-5:]
    assert re.fullmatch("[0-9a-f]{5}", uuid)
    assert [hi, bye, disconnect] == [f"flux-start: {word} {uuid}" for word in ("hi", "bye", "disconnect from")]
    session.signal(15)
    session.end()


def test_garbage_harms_only_its_sender(start: Start) -> None:
    session = start("-s1", broker=BROKER)
    path = session.stdout.line()
    with contextlib.closing(Client(path)) as client, contextlib.closing(Client(path)) as hostile:
        hostile.send_bytes(b"\xff" * 100)
        assert hostile.is_closed()
        assert client.rpc("start.status").errnum == 0
        client.rpc("start.kill", {"rank": 0, "signum": 15})
    assert session.end().code == 4
