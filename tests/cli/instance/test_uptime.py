"""`flux uptime`."""

from __future__ import annotations

import errno
import os
import re
import time
from typing import Any

import pytest

from pytest_flux.cli.commands.instance.uptime import format_uptime
from pytest_flux.cli.flux import main
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]


def instance_in_state(bed: ScriptedBroker, state: str, **services: dict[str, Any]) -> None:
    bed.on("state-machine.get", {"state": state, "duration": 5.04})
    bed.attributes["broker.starttime"] = f"{time.time() - 125:.2f}"
    bed.on("groups.get", {"members": "0-3"})
    for topic, answer in services.items():
        bed.on(topic.replace("__", ".").replace("_", "-"), answer)


def uptime_line(capsys: Capture) -> list[str]:
    assert main(["uptime"]) == 0
    first, *more = capsys.readouterr().out.splitlines()
    assert re.match(r" [0-9]{2}:[0-9]{2}:[0-9]{2} ", first)
    return [first[10:], *more]


def test_uptime(bed: ScriptedBroker, capsys: Capture) -> None:
    import pwd

    owner = pwd.getpwuid(os.getuid()).pw_name
    instance_in_state(bed, "run")
    assert uptime_line(capsys) == [f"run 2.1m,  owner {owner},  depth 0,  size 4"]
    bed.attributes["security.owner"] = "987654"
    bed.on("groups.get", {"members": "0,2"})
    assert uptime_line(capsys) == ["run 2.1m,  owner 987654,  depth 0,  size 4,  2 offline"]


def test_uptime_with_resources_and_queues(bed: ScriptedBroker, capsys: Capture) -> None:
    instance_in_state(
        bed,
        "run",
        resource__status={"drain": {"0-1": {}, "3": {}}},
        job_manager__queue_list={"queues": ["a", "b"]},
        job_manager__queue_status={"enable": False, "start": False},
    )
    lines = uptime_line(capsys)
    assert lines[0].endswith("size 4,  3 drained")
    assert lines[1:] == ["  submit disabled,  scheduler stopped"]
    bed.on("job-manager.queue-status", {"enable": True, "start": False})
    bed.on("job-manager.queue-list", {"queues": []})
    assert uptime_line(capsys)[1:] == ["  scheduler stopped"]
    bed.on("job-manager.queue-status", {"enable": True, "start": True})
    assert uptime_line(capsys)[1:] == []


def test_uptime_before_it_runs(bed: ScriptedBroker, capsys: Capture) -> None:
    instance_in_state(bed, "quorum")
    assert uptime_line(capsys)[0].startswith("quorum 5s,  owner ")
    assert "groups.get" not in bed.requests


def test_uptime_that_fails(bed: ScriptedBroker, capsys: Capture) -> None:
    instance_in_state(bed, "run")
    bed.on("resource.status", errnum=errno.EPERM)
    assert main(["uptime"]) == 1
    assert capsys.readouterr().err == "flux: Error fetching resource status: Operation not permitted\n"
    del bed.attributes["instance-level"]
    assert main(["uptime"]) == 1
    assert capsys.readouterr().err == ("flux: Error fetching instance-level attribute: No such file or directory\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.05, "50ms"), (0.994, "0.99s"), (72, "1.2m"), (5400, "1.5h"), (86400 * 12.34, "12d")],
)
def test_uptime_has_two_digits(seconds: float, text: str) -> None:
    assert format_uptime(seconds) == text
