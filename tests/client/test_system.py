"""The client on a real instance."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from pytest_flux.client import Flux, Rpc
from pytest_flux.client.hosts import HostMap
from pytest_flux.client.process import EXITED, RemoteProcess, describe_command
from pytest_flux.protocol.errors import FluxError

WAIT = 20.0

pytestmark = pytest.mark.system_flux


@pytest.fixture(scope="module")
def uri(system_flux: str) -> Iterator[str]:
    """The URI of rank 0 of a real instance of three brokers, which loads no modules of its own."""
    process = subprocess.Popen(
        [
            *(system_flux, "start", "-s3", "--test-hosts=node[0-2]"),
            *("-Sbroker.rc1_path=", "-Sbroker.rc3_path="),
            *("sh", "-c", "echo $FLUX_URI; exec cat"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(WAIT)


@pytest.fixture
def flux(uri: str) -> Iterator[Flux]:
    with Flux(uri) as flux:
        yield flux


def read_all(rpc: Rpc) -> None:
    while rpc.get_text():
        pass


def test_attributes(flux: Flux) -> None:
    assert (flux.rank, flux.size) == (0, 3)
    assert "tbon.topo" in flux.lsattr()
    assert int(flux.getattr("security.owner")) == os.getuid()
    flux.setattr("test.client", "x")
    assert flux.getattr("test.client") == "x"
    with pytest.raises(FluxError, match="may not be updated"):
        flux.setattr("rank", "1")


def test_every_rank_answers(flux: Flux) -> None:
    calls = [flux.rpc("attr.get", {"name": "rank"}, nodeid=rank) for rank in range(3)]
    assert [call.get(WAIT)["value"] for call in reversed(calls)] == ["2", "1", "0"]
    with pytest.raises(FluxError) as caught:
        flux.rpc("attr.get", {"name": "rank"}, nodeid=9).get(WAIT)
    assert caught.value.errnum == errno.EHOSTUNREACH
    assert HostMap.of(flux).lookup("1-2") == "node[1-2]"


def test_unknown_service_and_method(flux: Flux) -> None:
    with pytest.raises(FluxError, match=r"No service matching nosuch\.ask is registered"):
        flux.rpc("nosuch.ask").get(WAIT)
    with pytest.raises(FluxError, match=r"Unknown service method 'attr\.nosuch'"):
        flux.rpc("attr.nosuch").get(WAIT)


def test_events(flux: Flux, uri: str) -> None:
    flux.subscribe("client.test")
    with Flux(uri) as other:
        first = other.publish("client.test.one", {"a": 1})
        other.send_event("client.test.two", b"raw", private=True)
    one, two = flux.event_recv(WAIT), flux.event_recv(WAIT)
    assert (one.topic, one.json(), one.sequence) == ("client.test.one", {"a": 1}, first)
    assert (two.topic, two.payload) == ("client.test.two", b"raw")
    flux.unsubscribe("client.test")


def test_stream_and_cancel(flux: Flux) -> None:
    rpc = flux.rpc("log.dmesg", {"follow": True}, streaming=True, timeout=WAIT)
    assert re.match(r"<[0-9]+>1 ", rpc.get_text())
    rpc.cancel()
    with pytest.raises(FluxError) as caught:
        read_all(rpc)
    assert caught.value.errnum == errno.ENODATA
    assert flux.rpc("attr.list").matchtag == 1


def test_service(flux: Flux, uri: str) -> None:
    flux.service_add("clienttest")
    with Flux(uri) as other:
        call = other.rpc("clienttest.double", {"x": 21}, nodeid=0)
        request = flux.request_recv(WAIT)
        flux.respond(request, {"x": request.json()["x"] * 2})
        assert call.get(WAIT) == {"x": 42}
    flux.service_remove("clienttest")


def test_large_payload(flux: Flux) -> None:
    pad = "x" * (4 << 20)
    answer = flux.rpc("broker.ping", {"seq": 1, "pad": pad}, nodeid=2).get(WAIT)
    assert answer["pad"] == pad
    assert answer["rank"] == 2


def test_process(flux: Flux) -> None:
    process = RemoteProcess.start(flux, 1, describe_command(["cat"], cwd="/"))
    output = b""
    written = False
    while not process.complete:
        flux.wait_for(process.rpc.is_ready, WAIT, "no response")
        output += b"".join(data for _, data in process.take_output())
        if process.credits and not written:
            written = True
            process.write(b"one\ntwo\0\xff")
            process.close_stdin()
    assert output == b"one\ntwo\0\xff"
    assert (process.state, process.status) == (EXITED, 0)


def test_guest_is_turned_away(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HANDLE_USERID", str(os.getuid() + 4242))
    monkeypatch.setenv("FLUX_HANDLE_ROLEMASK", "2")
    with Flux(uri) as guest, pytest.raises(FluxError) as caught:
        guest.setattr("test.guest", "1")
    assert caught.value.errnum == errno.EPERM
