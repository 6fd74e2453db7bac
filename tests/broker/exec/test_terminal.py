"""Tasks with a terminal, and what clients see and say there."""

from __future__ import annotations

import base64
import errno
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.connection import Rpc
from pytest_flux.client.jobspec import from_command, set_option
from pytest_flux.protocol.errors import FluxError
from tests.broker.exec.conftest import Runner

_WINDOW = {"rows": 30, "cols": 100}


class Attached:
    """A client of a job's terminal."""

    def __init__(self, flux: Flux, *command: str, **options: Any) -> None:  # noqa: ANN401
        jobspec = from_command(list(command))
        set_option(jobspec, "pty", {"interactive": 1, **options})
        self.flux = flux
        self.jobid = flux.jobs.submit(jobspec)
        init = flux.jobs.wait_event(self.jobid, "shell.init", "guest.exec.eventlog", 30)
        self.context = init["context"]
        self.topic = f"{self.context['service']}.{self.context['pty']}"
        self.text = ""
        self.rpc: Rpc | None = None

    def request(self, **request: Any) -> Rpc:  # noqa: ANN401
        return self.flux.rpc(self.topic, request, nodeid=self.context["leader-rank"])

    def attach(self, mode: str = "rw") -> Attached:
        request = {"type": "attach", "mode": mode, "winsize": _WINDOW}
        self.rpc = self.flux.rpc(self.topic, request, nodeid=self.context["leader-rank"], streaming=True)
        assert self.rpc.get(30) == {"type": "attach"}
        return self

    def read_until(self, text: str) -> None:
        assert self.rpc is not None
        while text not in self.text:
            answer = self.rpc.get(30)
            assert answer["type"] == "data", (answer, self.text)
            data = answer["data"]
            self.text += base64.b64decode(data).decode("latin-1") if "encoding" in answer else data

    def read_exit(self) -> dict[str, Any]:
        assert self.rpc is not None
        while (answer := self.rpc.get(30))["type"] == "data":
            self.text += answer["data"]
        with pytest.raises(FluxError) as caught:
            self.rpc.get(30)
        assert caught.value.errnum == errno.ENODATA
        return answer


@pytest.fixture
def flux(runner: Runner) -> Iterator[Flux]:
    with Flux(runner.instance.uri) as client:
        yield client


def test_a_conversation(flux: Flux) -> None:
    """The size of the window, echo, and the end, with the wait status."""
    job = Attached(flux, "sh", "-c", "read line; stty size; echo got $line; exit 3").attach()
    job.request(type="data", data="hello\r").get(30)
    job.read_until("30 100\r\n")
    job.read_until("got hello\r\n")
    assert "hello\r\n" in job.text.partition("got")[0]
    assert job.read_exit() == {"type": "exit", "message": "session exiting", "status": 3 << 8}
    assert flux.jobs.result(job.jobid, 30).waitstatus == 3 << 8
    assert flux.jobs.output(job.jobid).stdout == b""


def test_it_waits_to_be_seen(flux: Flux) -> None:
    """A task that has ended long ago is there for the first client."""
    job = Attached(flux, "echo", "hi", capture=1)
    assert job.context["capture"] == 1
    flux.jobs.wait_event(job.jobid, "shell.task-exit", "guest.exec.eventlog", 30)
    job.attach()
    job.read_exit()
    assert flux.jobs.output(job.jobid, 30).stdout == b"hi\r\n"


def test_interrupt_and_resize(flux: Flux) -> None:
    job = Attached(flux, "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done").attach()
    job.read_until("ready")
    job.request(type="resize", winsize={"rows": 7, "cols": 8}).get(30)
    job.read_until("7 8\r\n")
    job.request(type="data", data=base64.b64encode(b"\x03").decode(), encoding="base64").get(30)
    assert job.read_exit()["status"] & 0x7F == 2


def test_detaching_and_coming_back(flux: Flux, runner: Runner) -> None:
    job = Attached(flux, "cat").attach()
    job.request(type="detach").get(30)
    assert job.read_exit() == {"type": "exit", "message": "Client requested detach", "status": 0}
    job.attach()
    with Flux(runner.instance.uri) as other:
        request = {"type": "attach", "mode": "ro"}
        watching = other.rpc(job.topic, request, nodeid=0, streaming=True)
        assert watching.get(30)["type"] == "attach"
        job.request(type="data", data="both\r").get(30)
        assert "both" in watching.get(30)["data"]
    job.request(type="data", data="\x04").get(30)
    assert job.read_exit()["status"] == 0


@pytest.mark.parametrize(
    ("request_", "errnum"),
    [
        ({"type": "data", "data": "x"}, errno.ENOENT),
        ({"type": "nosuch"}, errno.ENOENT),
        ({}, errno.EPROTO),
        ({"type": "attach", "mode": "x"}, errno.EPROTO),
        ({"type": "attach", "mode": "rw"}, errno.EPROTO),
        ({"type": "attach", "mode": "rw", "winsize": {"rows": 0, "cols": 1}}, errno.EINVAL),
        ({"type": "attach", "mode": "rw", "winsize": {"rows": "x", "cols": 1e9}}, errno.EINVAL),
    ],
)
def test_refusals(flux: Flux, request_: dict[str, Any], errnum: int) -> None:
    job = Attached(flux, "cat")
    try:
        with pytest.raises(FluxError) as caught:
            job.request(**request_).get(30)
        assert caught.value.errnum == errnum
    finally:
        job.attach().request(type="data", data="\x04").get(30)
        job.read_exit()


def test_terminals_without_clients(flux: Flux) -> None:
    """What tasks write to them is in the output."""
    jobspec = from_command(["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo tty"], tasks=2)
    set_option(jobspec, "pty", {"ranks": "1"})
    output = flux.jobs.output(flux.jobs.submit(jobspec), 30)
    assert output.stdout == b"tty\r\n"
    for value in ({"ranks": "x"}, {"nosuch": 1}):
        set_option(jobspec, "pty", value)
        result = flux.jobs.result(flux.jobs.submit(jobspec), 30)
        assert "invalid shell pty option" in result.values["exception_note"]


@pytest.mark.parametrize("name", ["initrc", "userrc", "stop-tasks-in-exec"])
def test_what_only_flux_core_has(flux: Flux, name: str) -> None:
    """Nothing pretends."""
    jobspec = from_command(["true"])
    set_option(jobspec, name, 1)
    result = flux.jobs.result(flux.jobs.submit(jobspec), 30)
    assert f"{name}: this option needs flux-core" in result.values["exception_note"]
