"""`flux module`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_flux.cli.flux import main
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]
MODULES = [
    {
        "name": "kvs",
        "path": "/x/kvs.so",
        "idle": 3,
        "status": 1,
        "services": ["kvs"],
        "sendqueue": 1,
        "recvqueue": 22,
    },
    {"name": "sched", "path": "builtin", "idle": 100, "status": 9, "services": ["sched", "feasibility", "b"]},
]


def test_module_list(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("module.list", {"mods": MODULES})
    assert main(["module", "list"]) == 0
    assert capsys.readouterr().out == (
        "Module                    Idle  S Sendq Recvq Service\n"
        "kvs                          3  R     1    22 \n"
        "sched                     idle  ?     0     0 feasibility,b\n"
    )
    assert main(["module", "list", "-l"]) == 0
    assert capsys.readouterr().out == (
        "Module                    Idle  S Sendq Recvq Service  Path\n"
        "kvs                          3  R     1    22          /x/kvs.so\n"
        "sched                     idle  ?     0     0 feasibi+ builtin\n"
    )


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], '{\n "a": {\n  "b": 2,\n  "c": 0.5\n }\n}\n'),
        (["-p", "a"], '{\n "b": 2,\n "c": 0.5\n}\n'),
        (["--parse=a.b"], "2\n"),
        (["-p", "a.b", "-s", "2.5"], "5\n"),
        (["-p", "a.b", "-t", "double"], "2\n"),
        (["-p", "a.c"], "0.500000\n"),
        (["-p", "a.c", "-s2", "-t", "int"], "1\n"),
    ],
)
def test_module_stats(bed: ScriptedBroker, words: list[str], output: str, capsys: Capture) -> None:
    bed.on("kvs.stats-get", {"a": {"b": 2, "c": 0.5}})
    assert main(["module", "stats", *words, "kvs"]) == 0
    assert capsys.readouterr().out == output


def test_module_stats_of_other_kinds(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("kvs.rusage", {"nvcsw": 1})
    bed.on("kvs.stats-clear", {})
    assert main(["module", "stats", "-R", "kvs"]) == 0
    assert main(["module", "stats", "-Rself", "-p", "nvcsw", "kvs"]) == 0
    assert bed.received[-1].json() == {"who": "self"}
    assert main(["module", "stats", "-c", "kvs"]) == 0
    assert main(["module", "stats", "-C", "kvs"]) == 0
    assert capsys.readouterr().out == '{\n "nvcsw": 1\n}\n1\n'
    assert main(["module", "stats", "-p", "x.y", "-R", "kvs"]) == 1
    assert main(["module", "stats", "nosuch"]) == 1
    assert capsys.readouterr().err == (
        "flux-module: `x.y' not found in response\n"
        "flux-module: nosuch.stats-get: No service matching nosuch.stats-get is registered\n"
    )


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ([], {"op": "setbit", "flags": 0}),
        (["-C"], {"op": "clr", "flags": 0}),
        (["-S", "0x1f"], {"op": "set", "flags": 31}),
        (["-s", "4"], {"op": "setbit", "flags": 4}),
        (["-c", "2"], {"op": "clrbit", "flags": 2}),
    ],
)
def test_module_debug(bed: ScriptedBroker, words: list[str], request_: dict[str, Any], capsys: Capture) -> None:
    bed.on("kvs.debug", {"flags": 31})
    assert main(["module", "debug", *words, "kvs"]) == 0
    assert bed.received[-1].json() == request_
    assert capsys.readouterr().out == "0x1f\n"


def test_module_load_and_remove(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("module.load", {})
    bed.on("module.remove", {})
    assert main(["module", "load", "kvs", "initial-rootref=x", "-x"]) == 0
    request = {"path": "kvs", "args": ["initial-rootref=x", "-x"], "exec": False}
    assert bed.received[-1].json() == request
    assert main(["module", "load", "--exec", "--name=y", "./x.so"]) == 0
    assert bed.received[-1].json() == {"path": os.path.realpath("x.so"), "args": [], "exec": True, "name": "y"}
    assert main(["module", "remove", "kvs"]) == 0
    assert bed.received[-1].json() == {"name": "kvs", "cancel": False}
    assert main(["module", "reload", "-f", "kvs", "a"]) == 0
    assert bed.received[-1].json() == {"path": "kvs", "args": ["a"], "exec": False}
    assert capsys.readouterr().err == ""
    for words in (["load"], ["remove"], ["reload"], ["remove", "a", "b"], ["trace"]):
        assert main(["module", *words]) == 1
