"""The tree of brokers: its shapes, its health, and what the loss of a part means to the others."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.client import Flux, Rpc
from pytest_flux.protocol.errors import FluxError
from tests.parity.differences import differs
from tests.parity.instances import Engine, Running

WAIT = 15.0
HOST = os.uname().nodename


def shape(topology: dict[str, Any]) -> Any:  # noqa: ANN401
    """A subtree as nested lists of ranks."""
    children = [shape(child) for child in topology["children"]]
    return [topology["rank"], *children] if children else topology["rank"]


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        ("kary:2", [0, [1, [3, 7], 4], [2, 5, 6]]),
        ("kary:0", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("binomial", [0, 1, [2, 3], [4, 5, [6, 7]]]),
        ("mincrit:2", [0, [1, 3, 5, 7], [2, 4, 6]]),
    ],
)
def test_topologies(engine: Engine, topology: str, expected: Any) -> None:  # noqa: ANN401
    with engine.running("-s8", f"-Stbon.topo={topology}") as running, running.client() as flux:
        answer = flux.rpc("overlay.topology", {"rank": 0}).get(WAIT)
        assert shape(answer) == expected
        assert answer["size"] == 8
        for rank in (3, 7):
            attributes = {
                name: flux.rpc("attr.get", {"name": f"tbon.{name}"}, nodeid=rank).get(WAIT)["value"]
                for name in ("level", "maxlevel", "descendants")
            }
            path = str(expected)[: str(expected).index(str(rank))]
            assert int(attributes["level"]) == path.count("[") - path.count("]") - (f"[{rank}" in str(expected) and 1)
            assert int(attributes["descendants"]) == {3: {"kary:2": 1}}.get(rank, {}).get(topology, 0)


@pytest.mark.parametrize(
    ("topology", "complaint"),
    [
        ("zz", "error creating 'zz' topology: unknown topology scheme 'zz'"),
        ("kary:x", "error creating 'kary:x' topology: kary k value must be an integer >= 0"),
    ],
)
def test_bad_topology(engine: Engine, topology: str, complaint: str) -> None:
    outcome = engine.run("-s2", f"-Stbon.topo={topology}", "true")
    assert outcome.code == 1
    assert complaint in outcome.stderr


def test_trace(flux: Flux) -> None:
    wanted = {"typemask": 0, "topic_glob": "*.ping", "nodeid": 1, "full": True}
    traced = flux.rpc("overlay.trace", wanted, streaming=True)
    # A real overlay is a module: what it is asked, and what passes through it, reach it on different ways.
    flux.rpc("overlay.health").get(WAIT)
    with pytest.raises(FluxError):
        flux.rpc("nosuch.ping", nodeid=1).get(WAIT)
    flux.rpc("overlay.ping", {"a": 1}, nodeid=2).get(WAIT)
    told = [traced.get(WAIT) for _ in range(4)]
    traced.cancel()
    assert all(answer.pop("timestamp") > 0 for answer in told)
    assert [answer.pop("payload")["a"] for answer in told[2:]] == [1, 1]
    assert told[3].pop("payload_size") > told[2].pop("payload_size") > 0
    text = "No service matching nosuch.ping is registered"
    both = {"rank": 1, "name": None}
    nothing = {"payload_size": 0, "payload": None}
    assert told == [
        both | nothing | {"prefix": "tx", "type": 1, "topic": "nosuch.ping", "errnum": 0, "errstr": ""},
        both | nothing | {"prefix": "rx", "type": 2, "topic": "nosuch.ping", "errnum": errno.ENOSYS, "errstr": text},
        both | {"prefix": "tx", "type": 1, "topic": "overlay.ping", "errnum": 0, "errstr": ""},
        both | {"prefix": "rx", "type": 2, "topic": "overlay.ping", "errnum": 0, "errstr": ""},
    ]


def test_health_and_topology_by_rank(flux: Flux) -> None:
    health = flux.rpc("overlay.health", nodeid=1).get(WAIT)
    assert [child.pop("duration") >= 0 for child in health["children"]] == [True]
    assert health.pop("duration") >= 0
    assert health == {"rank": 1, "status": "full", "children": [{"rank": 2, "status": "full"}]}
    assert flux.rpc("overlay.topology", {"rank": 2}, nodeid=1).get(WAIT) == {"rank": 2, "size": 1, "children": []}
    expected = {
        "overlay.topology": (errno.ENOENT, "requested rank is not this broker or its direct child"),
        "overlay.disconnect-subtree": (errno.ENOENT, "requested rank is not this broker's direct child"),
    }
    for topic, error in expected.items():
        with pytest.raises(FluxError) as caught:
            flux.rpc(topic, {"rank": 2}, nodeid=0).get(WAIT)
        assert (caught.value.errnum, caught.value.text) == error


def test_counts(flux: Flux) -> None:
    stats = flux.rpc("overlay.stats-get", nodeid=1).get(WAIT)
    assert {name: stats[name] for name in ("child-count", "child-connected", "parent-count")} == {
        "child-count": 1,
        "child-connected": 1,
        "parent-count": 1,
    }
    # Rank 1 follows states and configuration of its parent.
    assert stats["parent-rpc"] == 2


# -- losses


@pytest.fixture
def row(engine: Engine) -> Iterator[Running]:
    """Four brokers in a row, to be broken."""
    with engine.running("-s4", "-Stbon.topo=kary:1", "--test-exit-timeout=1s", "-o,-v") as running:
        # The others run a little later than rank 0 does.
        for rank in range(4):
            running.client().rpc("state-machine.wait", nodeid=rank).get(WAIT)
        yield running


def members(flux: Flux) -> Rpc:
    return flux.rpc("groups.get", {"name": "broker.online"}, streaming=True, timeout=WAIT)


def provoke(engine: Engine, flux: Flux, rank: int, answer: Rpc) -> None:
    """Have a real broker notice that a child is gone, until there is this answer: by sending something there."""
    deadline = time.monotonic() + WAIT
    while not differs(engine, "losses are noticed at once") and not answer.is_ready():
        assert time.monotonic() < deadline
        flux.rpc("broker.ping", {}, nodeid=rank)
        flux.dispatch(0.1)


def test_loss_of_a_leaf(engine: Engine, row: Running) -> None:
    flux = row.client()
    online, monitor = members(flux), row.client(2).rpc("overlay.monitor", streaming=True, timeout=WAIT)
    assert online.get() == {"members": "0-3"}
    assert monitor.get() == {"rank": 3, "status": "full", "torpid": False}
    with row.client(3) as leaf:
        leaf.service_add("parity")
        pending = flux.rpc("parity.x", {}, nodeid=3, timeout=WAIT)
        leaf.request_recv(WAIT)
        row.kill(3)
        provoke(engine, flux, 3, pending)
        with pytest.raises(FluxError) as caught:
            pending.get()
    assert caught.value.errnum == errno.EHOSTUNREACH
    assert monitor.get() == {"rank": 3, "status": "lost", "torpid": False}
    assert online.get() == {"members": "0-2"}
    with pytest.raises(FluxError) as caught:
        flux.rpc("broker.ping", {}, nodeid=3).get(WAIT)
    assert caught.value.errnum == errno.EHOSTUNREACH
    assert row.wait_for(r"overlay\.err\[2\]").endswith(f"{HOST} (rank 3) failed")
    assert row.wait_for(r"dead to Flux").endswith(f"broker.err[0]: dead to Flux: {HOST} (rank 3)")
    health = flux.rpc("overlay.health", nodeid=2).get(WAIT)
    assert (health["status"], health["children"][0]["status"]) == ("degraded", "lost")
    assert health["children"][0]["error"] == "lost connection"
    following = flux.rpc("overlay.health", streaming=True, timeout=WAIT)
    while following.get()["status"] != "degraded":
        pass


def test_loss_of_an_internal_rank(engine: Engine, row: Running) -> None:
    flux = row.client()
    online = members(flux)
    assert online.get() == {"members": "0-3"}
    pid = row.pids()[3]
    row.kill(2)
    provoke(engine, flux, 2, online)
    assert online.get() == {"members": "0-1"}
    row.wait_for(rf"overlay\.err\[1\]: {HOST} \(rank 2\) failed and severed contact with 1 other nodes$")
    row.wait_for(rf"broker\.err\[0\]: dead to Flux: {HOST},{HOST} \(rank 2-3\)$")
    for rank in (2, 3):
        with pytest.raises(FluxError) as caught:
            flux.rpc("broker.ping", {}, nodeid=rank).get(WAIT)
        assert caught.value.errnum == errno.EHOSTUNREACH
    assert flux.rpc("overlay.health", nodeid=1).get(WAIT)["children"][0]["status"] == "lost"
    if differs(engine, "losses are noticed at once"):
        row.wait_for(r"broker\.info\[3\]: parent-fail: run->cleanup")
        row.wait_for(r"flux-start: 3 \(pid <PID>\) exited with rc=1$")
    else:
        os.kill(pid, signal.SIGKILL)
    assert row.stop().code == 137


def test_loss_of_rank_0(engine: Engine, row: Running) -> None:
    row.kill(0)
    outcome = row.finish()
    assert outcome.code == 137
    if differs(engine, "losses are noticed at once"):
        assert "flux-start: 1 (pid <PID>) exited with rc=1" in outcome.log
        assert "<6>broker.info[1]: parent-fail: run->cleanup <TIME>" in outcome.log


def test_disconnect_by_request(engine: Engine, row: Running) -> None:
    flux = row.client()
    assert flux.rpc("overlay.disconnect-subtree", {"rank": 3}, nodeid=2).get(WAIT) == {}
    row.wait_for(rf"overlay\.err\[2\]: {HOST} \(rank 3\) disconnected by request$")
    row.wait_for(rf"overlay\.crit\[3\]: {HOST} \(rank 2\) sent disconnect control message$")
    health = flux.rpc("overlay.health", nodeid=2).get(WAIT)["children"][0]
    assert (health["status"], health["error"]) == ("lost", "administrative disconnect")
    with pytest.raises(FluxError) as caught:
        flux.rpc("overlay.disconnect-subtree", {"rank": 3}, nodeid=2).get(WAIT)
    assert (caught.value.errnum, caught.value.text) == (errno.EINVAL, "rank 3 is already lost")
    if differs(engine, "losses are noticed at once"):
        row.wait_for(r"broker\.info\[3\]: parent-fail: run->cleanup")
        row.wait_for(r"flux-start: 3 \(pid <PID>\) exited with rc=1$")


def test_broker_that_is_stopped(engine: Engine) -> None:
    times = ("-Stbon.torpid_min=0.1s", "-Stbon.torpid_max=0.4s")
    with engine.running("-s2", *times) as running:
        flux = running.client()
        if not engine.is_embedded:
            pytest.skip("without the heartbeat module a real broker looks every five seconds only")
        torpid = flux.rpc("groups.get", {"name": "broker.torpid"}, streaming=True, timeout=WAIT)
        assert torpid.get() == {"members": ""}
        running.kill(1, signal.SIGSTOP)
        running.wait_for(rf"overlay\.err\[0\]: broker on {HOST} \(rank 1\) has been unresponsive for <TIME>$")
        assert torpid.get() == {"members": "1"}
        running.kill(1, signal.SIGCONT)
        running.wait_for(rf"overlay\.err\[0\]: broker on {HOST} \(rank 1\) is responsive now$")
        assert torpid.get() == {"members": ""}
        assert flux.rpc("broker.ping", {}, nodeid=1).get(WAIT)["rank"] == 1


# -- joining


@pytest.fixture
def configured(engine: Engine, tmp_path: Path) -> list[str]:
    """Options for three brokers that are configured, and so do not have to wait for each other."""
    cert = tmp_path / "cert"
    if not engine.is_embedded:
        os.system(f"env PATH='{engine.environ()['PATH']}' flux keygen --name=test {cert}")
    endpoint = f"ipc://{tmp_path}/tbon"
    (tmp_path / "system.toml").write_text(
        f'[bootstrap]\ncurve_cert = "{cert}"\n'
        f'hosts = [{{host="fake0", bind="{endpoint}", connect="{endpoint}"}}, {{host="fake[1-2]"}}]\n'
    )
    return ["-s3", f"-c{tmp_path}", "--test-hosts=fake[0-2]", "--test-start-mode=leader"]


def test_joining_late_and_again(engine: Engine, configured: list[str]) -> None:
    with engine.running(*configured, "-Sbroker.quorum-warn=0.2s", wait=False) as running:
        running.wait_for(r"broker\.err\[0\]: quorum delayed: waiting for fake\[1-2\] \(rank 1-2\)$")
        start = running.start_service()
        start.rpc("start.run", {"rank": 2}).get(WAIT)
        running.wait_for(r"broker\.err\[0\]: quorum delayed: waiting for fake1 \(rank 1\)$")
        start.rpc("start.run", {"rank": 1}).get(WAIT)
        running.wait_for(r"broker\.err\[0\]: quorum reached$")
        assert running.stdout.line() == "ready"
        flux = running.client()
        online = members(flux)
        assert online.get() == {"members": "0-2"}
        running.kill(2)
        assert start.rpc("start.wait", {"rank": 2}).get(WAIT) == {"exit_rc": 137}
        start.rpc("start.run", {"rank": 2}).get(WAIT)
        assert online.get() == {"members": "0-1"}
        assert online.get() == {"members": "0-2"}
        assert flux.rpc("broker.ping", {}, nodeid=2).get(WAIT)["rank"] == 2
        assert flux.rpc("overlay.health").get(WAIT)["status"] == "full"


def test_quorum_smaller_than_the_size(engine: Engine, configured: list[str]) -> None:
    with engine.running(*configured, "-Sbroker.quorum=1") as running:
        flux = running.client()
        assert flux.rpc("overlay.health").get(WAIT)["status"] == "partial"
        with pytest.raises(FluxError) as caught:
            flux.rpc("broker.ping", {}, nodeid=1).get(WAIT)
        assert caught.value.errnum == errno.EHOSTUNREACH
        online = members(flux)
        assert online.get() == {"members": "0"}
        running.start_service().rpc("start.run", {"rank": 1}).get(WAIT)
        assert online.get() == {"members": "0-1"}
        # Nobody has waited for it: it may join the others while they run.
        assert running.client(1).rpc("state-machine.wait").get(WAIT) == {}


@pytest.mark.parametrize(
    ("quorum", "complaint"), [("0x", "parsing"), ("3", "parsing"), ("0", "assuming 1"), ("0-1", "assuming 2")]
)
def test_odd_quorum(engine: Engine, quorum: str, complaint: str) -> None:
    outcome = engine.run("-s2", f"-Sbroker.quorum={quorum}", "true")
    if complaint == "parsing":
        assert outcome.code == 1
        # Not as a line of its own: both complain, and a real broker writes its lines piece by piece.
        assert "broker.crit[0]: Error parsing broker.quorum attribute" in outcome.stderr
    else:
        assert outcome.code == 0
        assert outcome.stderr == f"broker.err[0]: warning: broker.quorum is now a size - {complaint}\n"
