"""Two ends of a link on one reactor, over a real socket: who is admitted, and what is lost with a link."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.log import BrokerLog
from pytest_flux.broker.overlay import tbon
from pytest_flux.broker.overlay.overlay import Overlay
from pytest_flux.broker.overlay.peers import FULL, LOST, OFFLINE, PARTIAL, UNKNOWN, Child
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.broker.router import Router
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import CONTROL, NODEID_ANY, REQUEST, ROLE_LOCAL, ROLE_OWNER, Message, encode_json
from pytest_flux.protocol.stdlog import decode_entry
from pytest_flux.reactor.reactor import Reactor

TIMEOUT = 20.0
VERSION = "0.88.0"


class End:
    """A router with its overlay: what a broker has of the tree, without the rest of the broker."""

    def __init__(self, reactor: Reactor, rank: int, size: int, settings: dict[str, str] | None = None) -> None:
        self.reactor = reactor
        self.attributes = Attributes()
        for name, value in {
            "version": VERSION,
            "hostname": f"host{rank}",
            "hostlist": f"host[0-{size - 1}]",
            "log-critical-level": "-1",
            "log-stderr-level": "-1",
            "tbon.connect_timeout": "5s",
            **(settings or {}),
        }.items():
            self.attributes.set(name, value)
        tbon.configure(self.attributes, {})
        self.log = BrokerLog(self.attributes, clock=reactor.clock)
        self.log.initialize(rank, lambda _: None)
        self.router = Router(f"uuid-{rank}", rank, Topology("kary:1", size))
        self.admits = True
        self.changes: list[tuple[int, int]] = []
        self.congestion: list[bool] = []
        self.is_connected = False
        self.has_lost_parent = False
        self.overlay = Overlay(
            reactor,
            self.router,
            self.attributes,
            self.log,
            admits_children=lambda: self.admits,
            parent_lost=self._lost,
        )
        self.overlay.on_change.append(self._changed)
        self.overlay.on_congestion.append(self.congestion.append)

    def _lost(self) -> None:
        self.has_lost_parent = True

    def _changed(self, child: Child) -> None:
        self.changes.append((child.rank, child.status))

    def connect(self, uri: str) -> None:
        def connected() -> None:
            self.is_connected = True

        self.overlay.connect(uri, connected)

    def texts(self) -> list[str]:
        return [decode_entry(line).text for line in self.log.lines()]


class Pair:
    """A parent that listens and a child that may connect."""

    def __init__(self, path: Path, size: int = 2, settings: dict[str, str] | None = None) -> None:
        self.reactor = Reactor()
        self.uri = f"ipc://{path}/tbon-0"
        self.parent = End(self.reactor, 0, size)
        self.child = End(self.reactor, 1, size, settings)
        self.parent.overlay.bind(self.uri)

    def until(self, condition: Callable[[], bool]) -> None:
        """Run until a condition holds."""
        late = self.reactor.call_later(TIMEOUT, lambda: pytest.fail("nothing has come of it"))

        def look() -> None:
            if condition():
                self.reactor.stop()
            else:
                self.reactor.call_soon(look)

        look()
        if not condition():
            self.reactor.run()
        late.cancel()

    def link(self) -> None:
        self.child.connect(self.uri)
        self.until(lambda: self.child.is_connected)

    def close(self) -> None:
        self.child.overlay.close()
        self.parent.overlay.close()
        self.reactor.close()


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("o"))
    yield pair
    pair.close()


def test_a_child_is_admitted(pair: Pair) -> None:
    pair.link()
    assert pair.parent.changes == [(1, FULL)]
    assert (pair.parent.overlay.status, pair.parent.overlay.online) == (FULL, [1])
    assert pair.parent.router.peers.keys() == {1}
    assert pair.child.router.peers.keys() == {0}
    assert "accepting connection from host1 (rank 1) status full" in pair.parent.texts()
    assert "hello parent 0 uuid-0" in pair.child.texts()


def test_a_status_travels_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    pair = Pair(tmp_path_factory.mktemp("o"), size=3)
    try:
        assert pair.child.overlay.status == PARTIAL
        pair.link()
        pair.child.overlay.set_status(pair.child.overlay.children[2], FULL)
        pair.until(lambda: pair.parent.changes == [(1, PARTIAL), (1, FULL)])
    finally:
        pair.close()


def test_the_way_there_and_back(pair: Pair) -> None:
    pair.link()
    asked: list[Message] = []
    answers: list[tuple[int, object]] = []
    pair.parent.router.add_service("echo", asked.append)
    pair.child.router.rpc("echo.it", {"a": 1}, lambda message: answers.append((message.errnum, message.json())))
    pair.until(lambda: bool(asked))
    assert asked[0].routes == ["uuid-1", "uuid-1"]
    assert asked[0].rolemask & ROLE_OWNER
    assert not asked[0].rolemask & ROLE_LOCAL
    pair.parent.router.respond(asked[0].response(encode_json({"b": 2})))
    pair.until(lambda: answers == [(0, {"b": 2})])


def test_a_request_that_is_lost_with_its_link_is_refused(pair: Pair) -> None:
    pair.link()
    asked: list[Message] = []
    answers: list[tuple[int, str | None]] = []
    pair.child.router.add_service("slow", asked.append)
    pair.parent.router.rpc(
        "slow.it", None, lambda message: answers.append((message.errnum, message.text())), nodeid=1
    )
    pair.until(lambda: bool(asked))
    pair.child.overlay.close()
    pair.until(lambda: bool(answers))
    assert answers == [(errno.EHOSTUNREACH, None)]
    assert pair.parent.changes == [(1, FULL), (1, LOST)]
    assert pair.parent.overlay.children[1].error == "lost connection"
    assert "host1 (rank 1) failed" in pair.parent.texts()
    assert pair.parent.router.peers == {}


def test_a_child_that_loses_its_parent_hears_so_once(pair: Pair) -> None:
    pair.link()
    answers: list[tuple[int, str | None]] = []
    asked: list[Message] = []
    pair.parent.router.add_service("slow", asked.append)
    pair.child.router.rpc("slow.it", None, lambda message: answers.append((message.errnum, message.text())))
    pair.until(lambda: bool(asked))
    pair.parent.overlay.close()
    pair.until(lambda: pair.child.has_lost_parent)
    assert answers == [(errno.EHOSTUNREACH, "overlay disconnect")]
    assert pair.child.overlay.parent is None
    assert pair.child.router.peers == {}


def test_a_goodbye_is_no_loss(pair: Pair) -> None:
    pair.link()
    parted: list[None] = []
    pair.child.overlay.part(lambda: parted.append(None))
    pair.until(lambda: parted == [None])
    assert pair.parent.changes == [(1, FULL), (1, OFFLINE)]
    assert pair.parent.overlay.is_childless
    assert not pair.child.has_lost_parent


def test_who_comes_too_late_is_sent_away(pair: Pair) -> None:
    pair.parent.admits = False
    pair.child.connect(pair.uri)
    pair.until(lambda: pair.child.has_lost_parent)
    assert "host0 (rank 0) sent disconnect control message" in pair.child.texts()
    assert pair.parent.changes == []


def test_another_version_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    pair = Pair(tmp_path_factory.mktemp("o"), settings={"version": "0.1.0"})
    try:
        pair.child.connect(pair.uri)
        pair.until(lambda: pair.child.has_lost_parent)
        text = f"client (0.1.0) version mismatched with server ({VERSION})"
        assert f"overlay.hello: {text}" in pair.child.texts()
        assert f"rejecting connection: {text}" in pair.parent.texts()
    finally:
        pair.close()


def test_a_parent_that_is_not_there_yet(pair: Pair) -> None:
    path = pair.uri.removeprefix("ipc://")
    os.rename(path, f"{path}.later")
    pair.child.connect(pair.uri)
    pair.reactor.call_later(0.2, lambda: os.rename(f"{path}.later", path))
    pair.until(lambda: pair.child.is_connected)


def test_a_parent_that_never_comes(tmp_path_factory: pytest.TempPathFactory) -> None:
    pair = Pair(tmp_path_factory.mktemp("o"), settings={"tbon.connect_timeout": "0.1s"})
    try:
        pair.child.connect(f"{pair.uri}-missing")
        pair.until(lambda: pair.child.has_lost_parent)
        assert any(text.endswith("No such file or directory") for text in pair.child.texts())
    finally:
        pair.close()


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:8050", "", "/tmp/x"])
def test_only_sockets_of_this_host(pair: Pair, uri: str) -> None:
    with pytest.raises(FluxError) as caught:
        pair.child.connect(uri)
    assert caught.value.errnum == errno.EPROTONOSUPPORT


class Stranger:
    """A process that has the right user id and speaks RFC 3, but was not started by the launcher."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._decoder = FrameDecoder()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(pair.uri.removeprefix("ipc://"))
        self._socket.setblocking(False)
        self._greeted = False
        self.got: list[Message] = []
        self.is_cut_off = False

    def send(self, topic: str, payload: dict[str, object] | None) -> None:
        message = Message(
            REQUEST,
            topic,
            None if payload is None else encode_json(payload),
            aux1=NODEID_ANY,
            aux2=1,
            userid=os.getuid(),
            rolemask=ROLE_OWNER,
            routes=["stranger"],
        )
        self._socket.send(encode_frame(message))

    def read(self) -> bool:
        """Take what has come. Whether there is an answer, or an end."""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return False
        if not data:
            self.is_cut_off = True
            return True
        if not self._greeted:
            self._greeted, data = True, data[1:]
        self.got += self._decoder.feed(data)
        return bool(self.got)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def stranger(pair: Pair) -> Iterator[Stranger]:
    stranger = Stranger(pair)
    yield stranger
    stranger.close()


HELLO = {"rank": 1, "version": VERSION, "uuid": "u", "status": 1, "hostname": "h"}


@pytest.mark.parametrize(
    ("change", "errnum", "text"),
    [
        ({"rank": 2}, errno.EINVAL, "rank 2 is not a child of rank 0: mismatched config?"),
        ({"rank": -1}, errno.EINVAL, "rank -1 is not a child of rank 0: mismatched config?"),
        ({"rank": "one"}, errno.EPROTO, None),
        ({"rank": None}, errno.EPROTO, None),
        ({"status": "fine"}, errno.EPROTO, None),
    ],
)
def test_a_bad_hello(
    pair: Pair, stranger: Stranger, change: dict[str, object], errnum: int, text: str | None
) -> None:
    stranger.send("overlay.hello", {**HELLO, **change})
    pair.until(stranger.read)
    assert [(message.errnum, message.text()) for message in stranger.got] == [(errnum, text)]
    assert pair.parent.changes == []


def test_who_does_not_say_hello_is_sent_away(pair: Pair, stranger: Stranger) -> None:
    stranger.send("kvs.lookup", {})
    pair.until(stranger.read)
    assert [message.type for message in stranger.got] == [CONTROL]
    assert pair.parent.changes == []


def test_a_parent_that_does_not_read_pauses_everybody(pair: Pair) -> None:
    pair.link()
    link = pair.parent.overlay.children[1].connection
    assert link is not None
    link.pause(True)
    payload = b"x" * (1 << 20)
    got: list[Message] = []
    pair.parent.router.add_service("sink", got.append)
    sent = 0
    while not pair.child.congestion:
        pair.child.router.rpc("sink.it", payload)
        sent += 1
    assert sent >= 8
    link.pause(False)
    pair.until(lambda: len(got) == sent)
    assert pair.child.congestion == [True, False]


@pytest.mark.parametrize("status", [-100, -1, 6, 1 << 40])
def test_a_status_that_does_not_exist_is_unknown(pair: Pair, stranger: Stranger, status: int) -> None:
    stranger.send("overlay.hello", {**HELLO, "status": status})
    pair.until(stranger.read)
    assert [message.errnum for message in stranger.got] == [0]
    assert pair.parent.changes == [(1, UNKNOWN)]


def test_a_rank_is_who_the_launcher_started(pair: Pair, stranger: Stranger) -> None:
    pair.parent.overlay.secret = pair.child.overlay.secret = "of this boot"
    pair.link()
    for secret in ({}, {"secret": "guessed"}, {"secret": None}, {"secret": ["of this boot"]}):
        stranger.got.clear()
        stranger.send("overlay.hello", {**HELLO, **secret})
        pair.until(stranger.read)
        text = "rank 1 does not know the secret of this instance"
        assert [(message.errnum, message.text()) for message in stranger.got] == [(errno.EPERM, text)]
    assert pair.parent.changes == [(1, FULL)]
    answers: list[int] = []
    pair.parent.router.rpc("nothing.here", None, lambda message: answers.append(message.errnum), nodeid=1)
    pair.until(lambda: answers == [errno.ENOSYS])


def test_without_pmi_the_secret_is_in_a_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("o")
    pair = Pair(path)
    pair.parent.overlay.close()
    try:
        pair.parent.overlay.bind(pair.uri, writes_secret=True)
        assert (path / "tbon-0.secret").stat().st_mode & 0o777 == 0o600
        pair.link()
        stranger = Stranger(pair)
        stranger.send("overlay.hello", {**HELLO, "secret": ""})
        pair.until(stranger.read)
        stranger.close()
        assert [message.errnum for message in stranger.got] == [errno.EPERM]
        assert pair.parent.changes == [(1, FULL)]
    finally:
        pair.close()
    assert list(path.iterdir()) == []
