"""The local connector's server: who is let in, what of theirs is believed, and what they can break."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    NODEID_ANY,
    REQUEST,
    ROLE_LOCAL,
    ROLE_NONE,
    ROLE_OWNER,
    ROLE_USER,
    USERID_UNKNOWN,
    Message,
)
from pytest_flux.reactor.listener import listen
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.usock import Connection, UsockServer, owner_only


class Service:
    """A server with a log of what happens on it. Answers each request."""

    def __init__(self, path: str, roles: int = ROLE_OWNER) -> None:
        self.reactor = Reactor()
        self.log: list[str] = []
        self.messages: list[Message] = []
        self.server = UsockServer(
            self.reactor,
            path,
            self._receive,
            lambda connection: self.log.append(f"bye {connection.uuid}"),
            lambda uid: roles,
            on_connect=lambda connection: self.log.append(f"hi {connection.uuid}"),
        )

    def _receive(self, connection: Connection, message: Message) -> None:
        self.messages.append(message)
        connection.send(message.response(b"answer\0"))

    def work(self) -> None:
        self.reactor.call_later(0.002, self.reactor.stop)
        self.reactor.run()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.server.path)
        self.work()
        return client

    def close(self) -> None:
        self.server.close()
        self.reactor.close()


@pytest.fixture
def path(private_tmpdir: str) -> str:
    return f"{private_tmpdir}/usock"


@pytest.fixture
def service(path: str) -> Iterator[Service]:
    service = Service(path)
    yield service
    service.close()


def request(userid: int = USERID_UNKNOWN, rolemask: int = ROLE_NONE) -> Message:
    return Message(REQUEST, "a.b", b"{}\0", aux1=NODEID_ANY, aux2=1, routes=[], userid=userid, rolemask=rolemask)


def test_client_is_let_in_and_answered(service: Service) -> None:
    with service.connect() as client:
        assert client.recv(10) == b"\0"
        client.sendall(encode_frame(request()))
        service.work()
        (response,) = FrameDecoder().feed(client.recv(4096))
        assert response.payload == b"answer\0"
    service.work()
    hi, bye = service.log
    assert re.fullmatch("hi [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", hi)
    assert bye == hi.replace("hi", "bye")
    assert service.server.connections == {}


def test_client_is_refused(path: str) -> None:
    service = Service(path, ROLE_NONE)
    with service.connect() as client:
        assert client.recv(10) == bytes([errno.EPERM])
        assert client.recv(10) == b""
    assert service.log == []
    service.close()


@pytest.mark.parametrize(
    ("roles", "claimed", "believed"),
    [
        (ROLE_OWNER, (USERID_UNKNOWN, ROLE_NONE), (os.getuid(), ROLE_OWNER | ROLE_LOCAL)),
        (ROLE_OWNER, (7, ROLE_USER), (7, ROLE_USER)),
        (ROLE_OWNER, (7, ROLE_NONE), (7, ROLE_OWNER | ROLE_LOCAL)),
        (ROLE_USER, (USERID_UNKNOWN, ROLE_NONE), (os.getuid(), ROLE_USER | ROLE_LOCAL)),
        (ROLE_USER, (7, ROLE_OWNER), (os.getuid(), ROLE_USER | ROLE_LOCAL)),
    ],
)
def test_only_owners_are_believed(path: str, roles: int, claimed: tuple[int, int], believed: tuple[int, int]) -> None:
    service = Service(path, roles)
    with service.connect() as client:
        client.sendall(encode_frame(request(*claimed)))
        service.work()
    (message,) = service.messages
    assert (message.userid, message.rolemask) == believed
    service.close()


def test_other_users_are_nobody() -> None:
    assert owner_only(os.getuid()) == ROLE_OWNER
    assert owner_only(os.getuid() + 1) == ROLE_NONE


@pytest.mark.parametrize("garbage", [b"\0" * 8, b"GET / HTTP/1.1\r\n\r\n", encode_frame(request())[:4] + b"\xff" * 4])
def test_garbage_costs_its_sender_the_connection(service: Service, garbage: bytes) -> None:
    with service.connect() as hostile, service.connect() as client:
        hostile.sendall(garbage)
        service.work()
        assert hostile.recv(10) == b"\0"
        assert hostile.recv(10) == b""
        client.sendall(encode_frame(request()))
        service.work()
        assert len(client.recv(4096)) > 1
    service.work()
    assert len(service.log) == 4


def test_messages_after_a_close_from_within_are_dropped(path: str) -> None:
    service = Service(path)

    def drop(connection: Connection, message: Message) -> None:
        service.messages.append(message)
        connection.close()

    service.server.on_message = drop
    with service.connect() as client:
        client.sendall(encode_frame(request()) * 3)
        service.work()
        assert len(service.messages) == 1
    assert len(service.log) == 2
    service.close()


def test_close_drops_clients_and_removes_the_socket(service: Service, path: str) -> None:
    with service.connect() as client:
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        service.server.close()
        assert client.recv(10) == b"\0"
        assert client.recv(10) == b""
    assert not os.path.exists(path)
    service.server.close()


def test_stale_socket_is_replaced(path: str) -> None:
    listen(path).close()
    with listen(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        listener.accept()[0].close()


def test_socket_that_is_served_is_left_alone(path: str) -> None:
    with listen(path) as listener, socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(OSError, match=f"in use: '{path}'"):
            listen(path)
        listener.accept()[0].close()
        client.connect(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mknod, lambda path: os.symlink("/nowhere", path)])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, make: Callable[[str], None]) -> None:
    path = str(tmp_path / "start")
    make(path)
    with pytest.raises(OSError, match=f"File exists: '{path}'"):
        listen(path)
    assert os.path.lexists(path)


def test_socket_that_cannot_be_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "no" / "such" / "place")
    with pytest.raises(OSError, match="No such file or directory") as caught:
        UsockServer(Reactor(), path, lambda *_: None, lambda _: None)
    assert caught.value.filename == path
