"""`flux shutdown`."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from pytest_flux.cli.flux import main
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]


def shutdown_that_logs(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
    for line in ("broker.info[0]: one\n", "broker.info[0]: two\n"):
        bed.answer(connection, request, {"log": line})
    bed.answer(connection, request, errnum=errno.ENODATA)


@pytest.mark.parametrize(("words", "level"), [([], 6), (["--quiet"], 4), (["-v"], 7), (["--verbose=0"], 6)])
def test_shutdown(bed: ScriptedBroker, words: list[str], level: int, capsys: Capture) -> None:
    bed.on("config.get", {})
    bed.on("shutdown.start", shutdown_that_logs)
    assert main(["shutdown", *words]) == 0
    assert capsys.readouterr().err == "broker.info[0]: one\nbroker.info[0]: two\n"
    assert bed.received[-1].json() == {"loglevel": level}
    assert bed.received[-1].is_streaming


def test_shutdown_in_background_and_elsewhere(bed: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.on("config.get", {})
    bed.on("shutdown.start", {})
    monkeypatch.delenv("FLUX_URI")
    assert main(["shutdown", "--background", bed.uri]) == 0
    assert not bed.received[-1].is_streaming


def test_shutdown_that_is_refused(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("config.get", {})
    text = b"shutdown may only be initiated on rank 0\0"
    bed.on("shutdown.start", lambda bed, connection, request: bed.answer(connection, request, text, errno.EINVAL))
    assert main(["shutdown"]) == 1
    assert main(["shutdown", "nosuch"]) == 1
    assert main(["shutdown", "--gc", "--dump=x"]) == 1
    assert capsys.readouterr().err == (
        "flux-shutdown: shutdown may only be initiated on rank 0\n"
        "flux-uri: ERROR: nosuch is not a valid Flux jobid\n"
        "flux-shutdown: failed to resolve target nosuch to a Flux URI\n"
        "flux-shutdown: --gc is incompatible with --skip-gc or --dump\n"
    )


@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        (["--dump=x.tgz"], "", "x.tgz"),
        (["--gc"], "", "auto"),
        (["-y"], "", "auto"),
        (["-n"], "", ""),
        ([], "other.tgz", "auto"),
    ],
)
def test_shutdown_with_dump(
    bed: ScriptedBroker, words: list[str], before: str, after: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.attributes |= {"content.dump": before, "statedir": "/state"}
    bed.on("config.get", {"kvs": {"gc-threshold": 10}})
    bed.on("kvs.getroot", {"rootseq": 11})
    bed.on("shutdown.start", {})
    monkeypatch.setattr(sys, "stdin", _Terminal("what\n\n"))
    assert main(["shutdown", "--background", *words]) == 0
    assert bed.attributes["content.dump"] == after
    if after == "auto":
        assert "shutdown will dump KVS to /state/dump/ (this" in capsys.readouterr().err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_shutdown_asks_only_on_a_terminal(
    bed: ScriptedBroker, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.on("config.get", {"kvs": {"gc-threshold": 10}})
    bed.on("kvs.getroot", {"rootseq": 11})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["shutdown"]) == 1
    assert capsys.readouterr().err == "flux-shutdown: gc threshold exceeded, specify -y or -n\n"
    monkeypatch.setattr(sys, "stdin", _Terminal(""))
    assert main(["shutdown"]) == 1
    bed.on("shutdown.start", {})
    monkeypatch.setattr(sys, "stdin", _Terminal("n\n"))
    assert main(["shutdown", "--background"]) == 0
    assert "content.dump" not in bed.attributes
