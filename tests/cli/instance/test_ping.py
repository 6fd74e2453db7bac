"""`flux ping`."""

from __future__ import annotations

import re

import pytest

from pytest_flux.cli.commands.instance.ping import find_target
from pytest_flux.cli.flux import main
from pytest_flux.client.core import NODEID_UPSTREAM
from pytest_flux.client.hosts import HostMap
from pytest_flux.protocol.message import NODEID_ANY, Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]


def answer_ping(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
    more = {"route": "aaaaaaaa!bbbbbbbb", "userid": 100, "rolemask": 5, "rank": 3}
    bed.answer(connection, request, request.json() | more)


def test_ping(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("broker.ping", answer_ping)
    assert main(["ping", "-c2", "-i0", "node3"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "flux-ping node3!broker (rank 3)"
    for number, line in enumerate(lines):
        pattern = rf"3!broker\.ping pad=0 seq={number} time=[0-9]+\.[0-9]{{3}} ms \(aaaaaaaa!bbbbbbbb\)"
        assert re.fullmatch(pattern, line)
    assert len(lines) == 2
    assert bed.received[-1].nodeid == 3


def test_ping_options(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("kvs.ping", answer_ping)
    assert main(["ping", "-c3", "-bu", "-i", "1ms", "-p", "1.5k", "-r", "1", "kvs"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "flux-ping 1!kvs"
    assert len(lines) == 3
    assert lines[2].startswith("3!kvs.ping pad=1536 userid=100 rolemask=0x5 seq=2 ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nosuch"], "nosuch.ping: Function not implemented"),
        (["2!nosuch"], "2!nosuch.ping: Function not implemented"),
        (["x!kvs"], "invalid nodeid/host: 'x'"),
        (["-r1", "2!kvs"], "--rank and TARGET both try to specify a nodeid"),
        (["-c-1", "kvs"], "count must be >= 0"),
        (["-b", "kvs"], "--batch should only be used with --count"),
        (["-p", "bad", "kvs"], "flux-ping: invalid argument for option 'pad': bad: Invalid argument"),
        (["-p", "-1", "kvs"], "flux-ping: invalid argument for option 'pad': -1: Invalid argument"),
        (["-p", "4G", "kvs"], "flux-ping: pad: value 4G too large (must be < 2G)"),
    ],
)
def test_ping_that_fails(bed: ScriptedBroker, words: list[str], complaint: str, capsys: Capture) -> None:
    assert main(["ping", "-c1", *words] if "-b" not in words else ["ping", *words]) == 1
    assert capsys.readouterr().err == f"flux-ping: {complaint}\n"


def test_ping_that_is_answered_wrongly(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("kvs.ping", {"pad": "other"})
    assert main(["ping", "-c1", "-p1", "kvs"]) == 1
    assert capsys.readouterr().err == "flux-ping: kvs.ping: padding contents invalid\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("any", ("broker", NODEID_ANY, "any", "")),
        ("upstream", ("broker", NODEID_UPSTREAM, "upstream", "")),
        ("upstream!kvs", ("kvs", NODEID_UPSTREAM, "upstream", "")),
        ("7", ("broker", 7, "7", "")),
        ("07!kvs", ("kvs", 7, "7", "")),
        ("b", ("broker", 1, "b", " (rank 1)")),
        ("kvs", ("kvs", NODEID_ANY, "any", "")),
    ],
)
def test_ping_targets(text: str, found: tuple[str, int, str, str]) -> None:
    assert find_target(HostMap(["a", "b"]), text) == found
