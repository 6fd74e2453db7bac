"""The client's side of remote processes, against a service that answers as RFC 42 says."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.process import (
    EXITED,
    FAILED,
    RUNNING,
    STARTING,
    RemoteProcess,
    describe_command,
)
from pytest_flux.protocol.message import FLAG_STREAMING, Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

WAIT = 10.0
EOF = {"type": "output", "pid": 7, "io": {"stream": "stdout", "rank": "0", "eof": True}}
COMMAND = describe_command(["true"], env={})


def output(stream: str, data: str, **more: str) -> dict[str, Any]:
    return {"type": "output", "pid": 7, "io": {"stream": stream, "rank": "0", "data": data, **more}}


def answer_with(broker: ScriptedBroker, *responses: dict[str, Any] | int) -> None:
    """Have `rexec.exec` answer with these, an error being a number."""

    def execute(broker: ScriptedBroker, connection: Connection, request: Message) -> None:
        for response in responses:
            if isinstance(response, int):
                broker.answer(connection, request, errnum=response)
            else:
                broker.answer(connection, request, response)

    broker.on("rexec.exec", execute)
    broker.on("rexec.attach", execute)
    broker.on("rexec.kill", {})
    broker.on("rexec.write", lambda *_: None)


def follow(flux: Flux, process: RemoteProcess) -> list[tuple[str, bytes]]:
    """All output, to the end."""
    output = []
    while not process.complete:
        flux.wait_for(process.rpc.is_ready, WAIT, "no response")
        output += process.take_output()
    return output


def test_life_of_a_process(broker: ScriptedBroker, flux: Flux) -> None:
    answer_with(
        broker,
        {"type": "started", "pid": 7},
        {"type": "add-credit", "channels": {"stdin": 4096}},
        output("stdout", "héllo\n"),
        output("stderr", "/wA=", encoding="base64"),
        {"type": "stopped"},
        EOF,
        {"type": "finished", "status": 3 << 8},
        errno.ENODATA,
    )
    process = RemoteProcess.start(flux, 2, COMMAND)
    assert (process.state, process.rank) == (STARTING, 2)
    assert follow(flux, process) == [("stdout", "héllo\n".encode()), ("stderr", b"\xff\0")]
    assert (process.state, process.pid, process.credits) == (EXITED, 7, 4096)
    assert os.waitstatus_to_exitcode(process.status) == 3
    assert process.error is None
    request = broker.received[-1]
    assert request.flags & FLAG_STREAMING
    assert request.nodeid == 2
    assert request.json() == {"cmd": COMMAND, "flags": 11, "local_flags": 0}


def test_without_flow_control(broker: ScriptedBroker, flux: Flux) -> None:
    answer_with(broker, errno.EPERM)
    follow(flux, RemoteProcess.start(flux, 0, COMMAND, flow_control=False))
    assert broker.received[-1].json()["flags"] == 3


@pytest.mark.parametrize("errnum", [errno.ENOENT, errno.EHOSTUNREACH])
def test_process_that_cannot_be(broker: ScriptedBroker, flux: Flux, errnum: int) -> None:
    answer_with(broker, errnum)
    process = RemoteProcess.start(flux, 0, COMMAND)
    assert follow(flux, process) == []
    assert process.state == FAILED
    assert process.error is not None
    assert process.error.errnum == errnum


@pytest.mark.parametrize(
    "responses",
    [
        ({"type": "started", "pid": 7}, errno.ENODATA),
        ({"type": "started", "pid": 7}, {"type": "nonsense"}),
        ({"type": "started", "pid": 7}, {"type": "finished"}),
        ({"type": "started", "pid": 7}, {"type": "output", "io": {"stream": "stdout"}}),
        ({"type": "started", "pid": 7}, {"type": "add-credit", "channels": {"stdin": "x"}}),
    ],
)
def test_service_that_breaks_the_protocol(
    broker: ScriptedBroker, flux: Flux, responses: tuple[dict[str, Any] | int, ...]
) -> None:
    answer_with(broker, *responses)
    process = RemoteProcess.start(flux, 0, COMMAND)
    follow(flux, process)
    assert process.state == FAILED
    assert process.error is not None
    assert process.error.errnum == errno.EPROTO
    flux.rpc("echo.echo").get(WAIT)
    # What it started must not go on without us.
    assert [message.json() for message in broker.received if message.topic == "rexec.kill"] == [
        {"pid": 7, "signum": signal.SIGKILL}
    ]


def test_stdin(broker: ScriptedBroker, flux: Flux) -> None:
    answer_with(broker, {"type": "started", "pid": 7}, {"type": "add-credit", "channels": {"stdin": 10}})
    process = RemoteProcess.start(flux, 3, COMMAND)
    while not process.credits:
        flux.wait_for(process.rpc.is_ready, WAIT, "no response")
        process.take_output()
    assert process.state == RUNNING
    process.write(b"abc")
    process.write(b"\xff")
    process.close_stdin()
    process.kill(signal.SIGTERM).get(WAIT)
    assert process.credits == 6
    writes = [message for message in broker.received if message.topic == "rexec.write"]
    assert all(not message.wants_response and message.nodeid == 3 for message in writes)
    assert [message.json() for message in writes] == [
        {"matchtag": process.rpc.matchtag, "io": {"stream": "stdin", "rank": "0", "data": "abc"}},
        {
            "matchtag": process.rpc.matchtag,
            "io": {"stream": "stdin", "rank": "0", "encoding": "base64", "data": "/w=="},
        },
        {"matchtag": process.rpc.matchtag, "io": {"stream": "stdin", "rank": "0", "eof": True}},
    ]
    assert broker.received[-1].json() == {"pid": 7, "signum": signal.SIGTERM}


@pytest.mark.parametrize(
    ("target", "request_"),
    [(77, {"pid": 77, "flags": 3}), ("a label", {"pid": -1, "label": "a label", "flags": 3})],
)
def test_attach(broker: ScriptedBroker, flux: Flux, target: int | str, request_: dict[str, Any]) -> None:
    answer_with(broker, {"type": "attached", "pid": 7, "cmd": {}}, {"type": "finished", "status": 0}, errno.ENODATA)
    process = RemoteProcess.attach(flux, 1, target)
    follow(flux, process)
    assert (process.state, process.pid) == (EXITED, 7)
    assert broker.received[-1].json() == request_


def test_command_object(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_command(["a", "b"], cwd="/", env={"X": "1", "BAD": "\udcff"}, label="l", options={"o": "v"}) == {
        "cwd": "/",
        "label": "l",
        "cmdline": ["a", "b"],
        "env": {"X": "1"},
        "opts": {"o": "v"},
        "channels": [],
        "msgchan": [],
    }
    monkeypatch.setenv("PYTEST_FLUX_PROBE", "here")
    command = describe_command(["a"])
    assert command["env"]["PYTEST_FLUX_PROBE"] == "here"
    assert "cwd" not in command
