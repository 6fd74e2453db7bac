"""What a job and its shells say to each other survives the way between brokers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_flux.broker.exec import messages
from pytest_flux.broker.exec.messages import (
    Command,
    Die,
    Exited,
    GaveUp,
    Kill,
    Log,
    OutputLines,
    PmiBarrier,
    Ready,
    Report,
    Run,
    decode_command,
    decode_report,
    encode_command,
    encode_report,
)
from pytest_flux.protocol.errors import ProtocolError


@pytest.mark.parametrize(
    ("report", "payload"),
    [
        (Ready(), {"report": "ready", "particulars": {}}),
        (
            OutputLines("stdout", 3, "{}\n"),
            {"report": "output", "particulars": {"stream": "stdout", "size": 3, "text": "{}\n"}},
        ),
        (PmiBarrier({"key": "value"}), {"report": "pmi", "particulars": {"values": {"key": "value"}}}),
        (GaveUp("no", None), {"report": "die", "particulars": {"note": "no", "wait_status": None}}),
        (Exited(256), {"report": "exit", "particulars": {"status": 256}}),
    ],
)
def test_reports(report: Report, payload: dict[str, Any]) -> None:
    assert encode_report(report) == payload
    assert decode_report(json.loads(json.dumps(payload))) == report


@pytest.mark.parametrize(
    ("command", "name"), [(Run(), "run"), (Kill(9), "kill"), (Log(4, "text", ""), "log"), (Die("no", 2), "die")]
)
def test_commands(command: Command, name: str) -> None:
    payload = encode_command(7, command)
    assert (payload["id"], payload["command"]) == (7, name)
    assert decode_command(json.loads(json.dumps(payload))) == command


def test_each_message_has_a_name() -> None:
    assert len(messages._NAMES) == len(messages._REPORTS) + len(messages._COMMANDS)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"command": "run"},
        {"command": "fly", "particulars": {}},
        {"command": [], "particulars": {}},
        {"command": "kill", "particulars": {}},
        {"command": "kill", "particulars": {"signum": 1, "other": 2}},
        {"command": "ready", "particulars": {}},
    ],
)
def test_what_is_not_a_command(payload: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_command(payload)
