"""`flux getattr`, `setattr` and `lsattr`."""

from __future__ import annotations

import pytest

from pytest_flux.cli.flux import main
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]


def test_getattr(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["getattr", "size"]) == 0
    assert capsys.readouterr().out == "4\n"
    assert main(["getattr", "xx"]) == 1
    assert capsys.readouterr().err == "flux-getattr: xx: No such file or directory\n"


@pytest.mark.parametrize(
    "words", [["getattr"], ["getattr", "a", "b"], ["setattr", "a"], ["setattr", "a", "b", "c"], ["lsattr", "a"]]
)
def test_wrong_number_of_arguments(words: list[str], capsys: Capture) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"Usage: flux {words[0]} ")


def test_setattr(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["setattr", "test.count", "-5"]) == 0
    assert bed.attributes["test.count"] == "-5"
    assert main(["setattr", "-f", "test.count", "6"]) == 0
    assert bed.received[-1].json() == {"name": "test.count", "value": "6", "force": True}
    assert main(["setattr", "nosuch", "1"]) == 1
    assert main(["setattr", "rank", "1"]) == 1
    assert capsys.readouterr().err == (
        "flux-setattr: nosuch: unknown attribute\nflux-setattr: rank: Operation not permitted\n"
    )


def test_lsattr(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["lsattr"]) == 0
    names = sorted([*bed.attributes, "parent-uri"])
    assert capsys.readouterr().out.splitlines() == names
    assert main(["lsattr", "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name:<40}{bed.attributes.get(name, '-')}" for name in names]
