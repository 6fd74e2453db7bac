"""Services of clients, streams that are cancelled, and what brokers are told when a client goes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.core import NODEID_UPSTREAM
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import FLAG_NORESPONSE, NODEID_ANY, ROLE_LOCAL, ROLE_OWNER
from tests.parity.instances import Engine, Running, eventually

WAIT = 10.0


def test_service_of_a_client(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-1") as server, Flux(f"local://{three.rundir}/local-2") as leaf:
        server.service_add("parity")
        # From below it is found on the way up; from above only by its rank.
        for client, rank in ((leaf, NODEID_ANY), (leaf, 1), (leaf, NODEID_UPSTREAM), (flux, 1)):
            rpc = client.rpc("parity.x.y", {"a": 1}, nodeid=rank, timeout=WAIT)
            request = server.request_recv(WAIT)
            assert (request.topic, request.json()) == ("parity.x.y", {"a": 1})
            assert (request.userid, request.rolemask) == (os.getuid(), ROLE_OWNER)
            server.respond(request, {"b": 2})
            assert rpc.get() == {"b": 2}
        for rank in (0, 2):
            with pytest.raises(FluxError) as caught:
                flux.rpc("parity.x", {}, nodeid=rank, timeout=WAIT).get()
            assert caught.value.errnum == errno.ENOSYS
            assert caught.value.text == "No service matching parity.x is registered"
        own = server.rpc("parity.own", {}, timeout=WAIT)
        request = server.request_recv(WAIT)
        assert request.rolemask == ROLE_OWNER | ROLE_LOCAL
        server.respond_error(request, 4711, "as we like it")
        with pytest.raises(FluxError) as caught:
            own.get()
        assert (caught.value.errnum, caught.value.text) == (4711, "as we like it")


def test_names_of_services(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-0") as other:
        flux.service_add("parity")
        expected = (("parity", errno.EEXIST), ("attr", errno.EEXIST), ("a.b", errno.EINVAL))
        for name, errnum in expected:
            with pytest.raises(FluxError) as caught:
                other.service_add(name)
            assert (caught.value.errnum, caught.value.text) == (errnum, None)
        for name in ("parity", "attr", "nosuch"):
            with pytest.raises(FluxError) as caught:
                other.service_remove(name)
            assert caught.value.errnum == errno.ENOENT
        flux.service_remove("parity")
        other.service_add("parity")
    # It went with the connection.
    with Flux(f"local://{three.rundir}/local-0") as other:
        other.service_add("parity")


def test_stream_of_a_client_s_service(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-2") as server:
        server.service_add("parity")
        rpc = flux.rpc("parity.stream", {}, nodeid=2, streaming=True, timeout=WAIT)
        request = server.request_recv(WAIT)
        assert request.is_streaming
        for number in range(3):
            server.respond(request, {"number": number})
        rpc.cancel("parity.cancel")
        cancel = server.request_recv(WAIT)
        assert (cancel.topic, cancel.json()) == ("parity.cancel", {"matchtag": rpc.matchtag})
        assert cancel.flags & FLAG_NORESPONSE
        server.respond_error(request, errno.ENODATA)
        assert [answer["number"] for answer in rpc] == [0, 1, 2]


def test_request_that_wants_no_response(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-1") as server:
        server.service_add("parity")
        flux.post("parity.hint", {"a": 1}, nodeid=1)
        while (request := server.request_recv(WAIT)).topic == "parity.x.disconnect":
            pass  # from a client of another test
        assert (request.topic, request.wants_response) == ("parity.hint", False)


def test_services_hear_of_clients_that_go(three: Running) -> None:
    with Flux(f"local://{three.rundir}/local-2") as server:
        server.service_add("parity")
        with Flux(f"local://{three.rundir}/local-0") as client:
            for topic in ("parity.a.b", "parity.a.c", "parity.d"):
                client.rpc(topic, {}, nodeid=2)
            client.post("parity.without.response", {}, nodeid=2)
            asked = [server.request_recv(WAIT) for _ in range(4)]
        told = [server.request_recv(WAIT) for _ in range(2)]
        assert sorted(str(message.topic) for message in told) == ["parity.a.disconnect", "parity.disconnect"]
        for message in told:
            assert message.flags & FLAG_NORESPONSE
            assert message.routes is not None
            assert asked[0].routes is not None
            assert message.routes[0] == asked[0].routes[0]


def test_server_that_goes(three: Running, flux: Flux) -> None:
    server = Flux(f"local://{three.rundir}/local-1")
    server.service_add("parity")
    flux.rpc("parity.x", {}, nodeid=1, timeout=WAIT)
    server.request_recv(WAIT)
    server.close()

    def is_gone() -> bool:
        try:
            flux.rpc("parity.y", {}, nodeid=1, timeout=0.1).get()
        except FluxError as error:
            return error.errnum == errno.ENOSYS
        except TimeoutError:
            return False  # it was sent before the broker knew
        return False

    eventually(is_gone, "the service is still there")


def test_processes_of_a_killed_client_are_killed(three: Running, engine: Engine, flux: Flux) -> None:
    """Also on other ranks: the broker there gets a disconnect message."""
    environ = engine.environ({"FLUX_URI": flux.uri})
    code = (
        "import sys; from pytest_flux.client import Flux; from pytest_flux.client.process import *; "
        "p = RemoteProcess.start(Flux(), 2, describe_command(['sleep', '1000'], label='victim'))\n"
        "while p.pid == 0: p.rpc._connection.dispatch(None); p.take_output()\n"
        "print(p.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the process runs on")
    procs = flux.rpc("rexec.list", nodeid=2).get(WAIT)["procs"]
    assert "victim" not in [proc["label"] for proc in procs]


def test_large_messages_pass(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-2") as client:
        pad = "x" * 20_000_000
        assert client.rpc("broker.ping", {"pad": pad}, nodeid=0, timeout=30).get()["pad"] == pad
