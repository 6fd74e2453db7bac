"""`flux config`."""

from __future__ import annotations

import pytest

from pytest_flux.cli.flux import main
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]
CONFIG = {"kvs": {"period": "2m", "n": 5, "x": 1.5, "on": True, "list": [1, "é"]}, "empty": {}}


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], '{"kvs":{"period":"2m","n":5,"x":1.5,"on":true,"list":[1,"é"]},"empty":{}}'),
        (["kvs.period"], "2m"),
        (["-t", "fsd", "kvs.period"], "2m"),
        (["-t", "fsd-integer", "kvs.period"], "120"),
        (["-t", "FSD-real", "kvs.period"], "120.000000"),
        (["-t", "boolean", "kvs.on"], "true"),
        (["-t", "integer", "kvs.n"], "5"),
        (["-t", "real", "kvs.x"], "1.5"),
        (["-t", "array", "kvs.list"], '[1,"é"]'),
        (["-t", "object", "empty"], "{}"),
        (["-d", "7", "kvs.nosuch"], "7"),
    ],
)
def test_config_get(bed: ScriptedBroker, words: list[str], output: str, capsys: Capture) -> None:
    bed.on("config.get", CONFIG)
    assert main(["config", "get", *words]) == 0
    assert capsys.readouterr().out == output + "\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nosuch"], "nosuch is not set"),
        (["kvs.n.deeper"], "kvs.n.deeper is not set"),
        (["kvs..n"], "kvs..n: Invalid argument"),
        (["-t", "bad"], "Unknown type: bad"),
        (["-t", "string"], "value does not have the requested type"),
        (["-t", "integer", "kvs.on"], "kvs.on does not have the requested type"),
        (["-t", "fsd", "kvs.n"], "kvs.n does not have the requested type"),
        (["-c", "/nonexistent"], "stat: /nonexistent: No such file or directory"),
    ],
)
def test_config_get_that_fails(bed: ScriptedBroker, words: list[str], complaint: str, capsys: Capture) -> None:
    bed.on("config.get", CONFIG)
    assert main(["config", "get", *words]) == 1
    assert capsys.readouterr().err == f"flux-config: {complaint}\n"


def test_config_get_quietly(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("config.get", CONFIG)
    assert main(["config", "get", "-q", "nosuch"]) == 1
    assert capsys.readouterr().err == ""


def test_config_reload(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["config", "reload"]) == 1
    assert capsys.readouterr().err == ("flux-config: reload: No service matching config.reload is registered\n")
    bed.on("config.reload", {})
    assert main(["config", "reload"]) == 0
    bed.attributes["rank"] = "1"
    bed.requests.clear()
    assert main(["config", "reload", "--follower-noop"]) == 0
    assert "config.reload" not in bed.requests
