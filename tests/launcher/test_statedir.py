"""The statedir of a real rank 0, which is removed even if rank 0 cannot do it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.launcher.query import BrokerQuery
from pytest_flux.launcher.statedir import QUESTIONS, remove_untold_statedir, temporary_statedir
from pytest_flux.protocol.message import Message, encode_json
from pytest_flux.reactor.listener import listen
from pytest_flux.reactor.reactor import Reactor
from pytest_flux.reactor.usock import Connection, UsockServer
from tests.launcher.sessions import DEADLINE, PROMPT, Session, Start, start

__all__ = ["start"]


class Broker:
    """What answers attr.get, in the reactor of who asks."""

    def __init__(self, path: str, attributes: dict[str, str], *, refuse: bool = False) -> None:
        self.reactor = Reactor()
        self.path = path
        self.attributes = attributes
        self.answers: list[list[dict[str, Any]]] = []
        self.refuse = refuse
        self.server: UsockServer | None = None

    def listen(self) -> None:
        self.server = UsockServer(
            self.reactor, self.path, self._receive, lambda _: None, lambda uid: 0 if self.refuse else 1
        )

    def ask(self) -> list[dict[str, Any]]:
        def take(answers: list[dict[str, Any]]) -> None:
            self.answers.append(answers)
            self.reactor.stop()

        query = BrokerQuery(self.reactor, self.path, QUESTIONS, take, interval=0)
        timer = self.reactor.call_later(DEADLINE, self.reactor.stop)
        self.reactor.run()
        timer.cancel()
        query.cancel()
        (answers,) = self.answers
        return answers

    def _receive(self, connection: Connection, message: Message) -> None:
        value = self.attributes.get(message.json()["name"])
        response = message.response(None, 2) if value is None else message.response(encode_json({"value": value}))
        connection.send(response)

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        self.reactor.close()


@pytest.fixture
def broker(private_tmpdir: str) -> Iterator[Broker]:
    broker = Broker(f"{private_tmpdir}/local-0", {"statedir": "/s", "statedir-cleanup": "1"})
    yield broker
    broker.close()


def test_broker_is_asked(broker: Broker) -> None:
    broker.listen()
    assert broker.ask() == [{"value": "/s"}, {"value": "1"}]


def test_broker_is_asked_once_it_listens(broker: Broker) -> None:
    broker.reactor.call_later(0.05, broker.listen)
    assert broker.ask() == [{"value": "/s"}, {"value": "1"}]


def test_broker_that_hangs_up_is_asked_again(broker: Broker) -> None:
    listener = listen(broker.path)

    def hang_up() -> None:
        listener.accept()[0].close()
        broker.reactor.on_readable(listener.fileno(), None)
        listener.close()
        broker.listen()

    broker.reactor.on_readable(listener.fileno(), hang_up)
    assert broker.ask() == [{"value": "/s"}, {"value": "1"}]


def test_broker_that_does_not_know_says_nothing(broker: Broker) -> None:
    broker.attributes.clear()
    broker.listen()
    assert broker.ask() == []


def test_broker_that_does_not_let_us_in_says_nothing(broker: Broker) -> None:
    broker.refuse = True
    broker.listen()
    assert broker.ask() == []


def test_only_a_temporary_statedir_is_to_go(tmp_path: Path) -> None:
    place = {"value": str(tmp_path)}
    assert temporary_statedir([]) is None
    assert temporary_statedir([place, {"value": "0"}]) is None
    assert temporary_statedir([{"value": "/no/such/place"}, {"value": "1"}]) is None
    found = temporary_statedir([place, {"value": "1"}])
    assert found is not None
    assert found.path == str(tmp_path)
    found.remove()
    assert not tmp_path.exists()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def make(place: Path, name: str, mode: int = 0o700) -> None:
    (place / name).mkdir()
    (place / name).chmod(mode)


def test_untold_statedir_is_known_by_all_of_its_marks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_flux.launcher.statedir._others", lambda since: [])
    make(place, "flux-tooOld")
    since = before_all = os.stat(place / "flux-tooOld").st_ctime
    while since == before_all:
        # The clock of file systems ticks some hundred times a second.
        (place / "tick").touch()
        since = os.stat(place / "tick").st_ctime
    for name in ("flux-abcDE6", "flux-longer7", "flux-a_b_c_", "xflux-abcDE6", "flux-full77"):
        make(place, name)
    (place / "flux-full77" / "content.sqlite").write_text("")
    make(place, "flux-mode77", 0o755)
    (place / "flux-file77").write_text("")
    (place / "flux-link77").symlink_to(place / "flux-longer7")
    before = set(os.listdir(place))
    remove_untold_statedir(since)
    assert before - set(os.listdir(place)) == {"flux-abcDE6"}


def test_untold_statedir_stays_if_it_might_be_anothers(place: Path, start: Start) -> None:
    make(place, "flux-abcDE6")
    session = start("-s1", broker="echo ready; exec tail -f /dev/null")
    session.stdout.line()
    # That session descends from this test. To see it as another's, look from a process beside it.
    code = f"from pytest_flux.launcher.statedir import *; remove_untold_statedir({time.time() - 60})"
    looker = start.command([sys.executable, "-c", code], {"TMPDIR": str(place)})
    assert looker.end() == (0, "", "")
    assert (place / "flux-abcDE6").exists()
    session.signal(signal.SIGTERM)
    session.end()


def start_real(start: Start, flux: str, place: Path) -> Session:
    """A session of a real Flux, at the moment when its rank 0 has made a statedir and not told of it."""
    environ = {"PATH": f"{os.path.dirname(flux)}:{os.environ['PATH']}", "TMPDIR": str(place)}
    settings = ["--broker=system", "-s2", "--test-exit-timeout=5s", "-Sbroker.rc1_path=", "-Sbroker.rc3_path="]
    session = start.command(
        [sys.executable, "-m", "pytest_flux.cli.flux_start", *settings, "tail", "-f", "/dev/null"], environ
    )
    deadline = time.monotonic() + DEADLINE
    while len(list(place.glob("flux-*"))) < 2:
        assert time.monotonic() < deadline
    return session


@pytest.fixture
def short_place(private_tmpdir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR in which a real broker's sockets fit."""
    place = Path(private_tmpdir, "t")
    place.mkdir()
    yield place
    place.rmdir()


@pytest.mark.system_flux
@pytest.mark.parametrize("victim", ["front", "supervisor"])
def test_statedir_goes_when_a_part_is_killed(start: Start, system_flux: str, short_place: Path, victim: str) -> None:
    session = start_real(start, system_flux, short_place)
    os.kill(session.process.pid if victim == "front" else session.supervisor, signal.SIGKILL)
    session.end(PROMPT)
    assert list(short_place.glob("flux-*")) == []


@pytest.mark.system_flux
def test_signal_that_a_broker_is_too_young_to_take_is_repeated(
    start: Start, system_flux: str, short_place: Path
) -> None:
    session = start_real(start, system_flux, short_place)
    session.signal(signal.SIGTERM)
    ended = session.end()
    assert ended.code == 143
    assert "No broker exited in time" not in ended.stderr
    assert list(short_place.glob("flux-*")) == []
