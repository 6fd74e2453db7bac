"""What the broker's own services answer, errors included, by request."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.core import NODEID_UPSTREAM
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import NODEID_ANY
from tests.parity.differences import differs
from tests.parity.instances import Engine, Running

UNKNOWN = "No service matching nosuch.x is registered"


def ask(flux: Flux, topic: str, payload: dict[str, Any] | None = None, rank: int = NODEID_ANY) -> Any:  # noqa: ANN401
    """The answer, or errnum and text of the error."""
    try:
        return flux.rpc(topic, payload, nodeid=rank, timeout=10).get()
    except FluxError as error:
        return error.errnum, error.text


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (NODEID_ANY, (errno.ENOSYS, UNKNOWN)),
        (0, (errno.ENOSYS, UNKNOWN)),
        (1, (errno.ENOSYS, UNKNOWN)),
        (2, (errno.ENOSYS, UNKNOWN)),
        (3, (errno.EHOSTUNREACH, None)),
        (0xFFFFFF, (errno.EHOSTUNREACH, None)),
        (NODEID_UPSTREAM, (errno.EHOSTUNREACH, None)),
    ],
)
def test_service_that_is_not_there(flux: Flux, rank: int, expected: tuple[int, str | None]) -> None:
    assert ask(flux, "nosuch.x", {}, rank) == expected


def test_unknown_methods(flux: Flux) -> None:
    services = "attr broker groups overlay log rexec event state-machine shutdown runat module config".split()
    for service in services:
        text = f"Unknown service method '{service}.nosuch'"
        assert ask(flux, f"{service}.nosuch") == (errno.ENOSYS, text)
    assert ask(flux, "nodot") == (errno.ENOSYS, "No service matching nodot is registered")


def test_requests_go_where_they_are_sent(three: Running) -> None:
    for here in range(3):
        with Flux(f"local://{three.rundir}/local-{here}") as flux:
            assert flux.rank == here
            for there in range(3):
                assert ask(flux, "attr.get", {"name": "rank"}, there)["value"] == str(there)
            parent = ask(flux, "attr.get", {"name": "rank"}, NODEID_UPSTREAM)
            assert parent == ((errno.EHOSTUNREACH, None) if here == 0 else {"value": str(here - 1), "flags": 1})


def test_modules_have_common_methods(flux: Flux, engine: Engine) -> None:
    for service in ("broker", "config", "groups", "overlay", "rexec", "connector-local"):
        answer = ask(flux, f"{service}.ping", {"seq": 1, "pad": "x"})
        assert answer.pop("route").count("!") >= 1
        assert answer == {"seq": 1, "pad": "x", "rank": 0, "userid": os.getuid(), "rolemask": 5}
        assert ask(flux, f"{service}.debug", {"op": "set", "flags": 0}) == {"flags": 0}
        assert ask(flux, f"{service}.stats-clear") == {}
        usage = ask(flux, f"{service}.rusage")
        assert sorted(usage) == sorted(
            "utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals nvcsw "
            "nivcsw".split()
        )
    for service in ("attr", "log", "event", "state-machine", "shutdown", "runat", "module"):
        assert ask(flux, f"{service}.ping", {})[0] == errno.ENOSYS


def test_ping_shows_the_way(flux: Flux, engine: Engine) -> None:
    hops = [ask(flux, "broker.ping", {}, rank)["route"].count("!") for rank in range(3)]
    start = 1 if differs(engine, "fewer hops") else 2
    assert hops == [start, start + 1, start + 2]
    # Whoever comes from another rank is not local any more.
    assert ask(flux, "broker.ping", {}, 1)["rolemask"] == 1


def test_malformed_requests(flux: Flux, engine: Engine) -> None:
    malformed: list[tuple[str, dict[str, Any] | None]] = [
        ("broker.ping", None),
        ("attr.get", None),
        ("attr.get", {}),
        ("attr.get", {"name": 3}),
        ("groups.get", None),
        ("overlay.topology", None),
        ("event.publish", {"topic": "a"}),
        ("event.publish", {"topic": "a", "flags": 0, "payload": "!!"}),
        ("broker.getenv", None),
        ("broker.setenv", {"env": {"": "b"}}),
        ("broker.setenv", {"env": {"A=": "b"}}),
        ("broker.setenv", {"env": {"A": 3}}),
        ("runat.push", {"name": "x"}),
        ("log.dmesg", None),
        ("log.dmesg", {"follow": False}),
        ("overlay.monitor", None),
        ("event.subscribe", None),
        ("service.add", None),
    ]
    for topic, payload in malformed:
        errnum, text = ask(flux, topic, payload)
        assert errnum == errno.EPROTO, topic
        assert text is None or differs(engine, "service errors have texts")


def test_state_machine(flux: Flux) -> None:
    state = ask(flux, "state-machine.get")
    assert state.pop("duration") > 0
    assert state == {"state": "run"}
    assert ask(flux, "state-machine.wait") == {}
    assert ask(flux, "state-machine.monitor") == {"state": 5}
    assert ask(flux, "state-machine.monitor", {"final": 2}) == (errno.ENODATA, None)
    assert ask(flux, "state-machine.monitor", {"final": "x"}) == {"state": 5}
    assert list(flux.rpc("state-machine.monitor", {"final": 5}, streaming=True)) == [{"state": 5}]
    assert list(flux.rpc("state-machine.monitor", {"final": 4}, streaming=True)) == []
    assert ask(flux, "state-machine.post", {"event": "x"}) == (errno.EPROTO, None)


def test_groups(flux: Flux, three: Running) -> None:
    assert ask(flux, "groups.get", {"name": "broker.online"}) == {"members": "0-2"}
    only = (errno.EPROTO, "this RPC is only available on rank 0")
    assert ask(flux, "groups.get", {"name": "broker.online"}, 1) == only
    watch = flux.rpc("groups.get", {"name": "test.a"}, streaming=True, timeout=10)
    assert watch.get() == {"members": ""}
    local = (errno.EPROTO, "groups.join is restricted to the local broker")
    assert ask(flux, "groups.join", {"name": "test.a"}, 1) == local
    with Flux(f"local://{three.rundir}/local-2") as other:
        assert ask(other, "groups.join", {"name": "test.a"}) == {}
        assert watch.get() == {"members": "2"}
        assert ask(other, "groups.join", {"name": "test.a"}) == (
            errno.EEXIST,
            "rank 2 is already a member of test.a",
        )
        assert ask(flux, "groups.join", {"name": "test.a"}) == {}
        assert watch.get() == {"members": "0,2"}
        assert ask(other, "groups.leave", {"name": "test.a"}) == {}
        assert watch.get() == {"members": "0"}
        assert ask(other, "groups.leave", {"name": "test.a"}) == (errno.ENOENT, "rank 2 is not a member of test.a")
        assert ask(other, "groups.join", {"name": "test.a"}) == {}
        assert watch.get() == {"members": "0,2"}
    # A membership ends with the connection of who asked for it.
    assert watch.get() == {"members": "0"}
    assert ask(flux, "groups.leave", {"name": "test.a"}) == {}
    assert watch.get() == {"members": ""}


def test_environment_of_the_broker(flux: Flux) -> None:
    assert ask(flux, "broker.getenv", {"names": ["HOME", "NO_SUCH"]}) == {"env": {"HOME": os.environ["HOME"]}}
    assert ask(flux, "broker.getenv", {"names": "x"}) == {"env": {}}
    assert ask(flux, "broker.conf-builtin", {"keys": ["exec_path", 3]})["values"].keys() == {"exec_path"}
    assert ask(flux, "broker.conf-builtin", {"keys": ["exec_path", "x"]}) == (errno.EINVAL, "x: invalid key")
    assert ask(flux, "broker.setenv", {"env": {"PARITY": "b"}}, 2) == {}
    assert ask(flux, "broker.getenv", {"names": ["PARITY"]}, 2) == {"env": {"PARITY": "b"}}
    assert ask(flux, "broker.getenv", {"names": ["PARITY"]}, 1) == {"env": {}}
    assert ask(flux, "broker.setenv", {"env": {"PARITY": None}}, 2) == {}
    assert ask(flux, "broker.getenv", {"names": ["PARITY"]}, 2) == {"env": {}}


def test_modules(flux: Flux, engine: Engine) -> None:
    modules = {module.pop("name"): module for module in ask(flux, "module.list")["mods"]}
    assert {"config", "connector-local", "groups", "overlay", "rexec"} <= modules.keys()
    assert modules["overlay"].pop("idle") in range(10)
    assert modules["overlay"] == {
        "path": "builtin",
        "status": 1,
        "services": ["overlay"],
        "sendqueue": 0,
        "recvqueue": 0,
    }
    if engine.is_embedded:
        # The names are those of flux-core's modules, where services go by others.
        assert modules["sched-simple"]["services"] == ["sched-simple", "sched", "feasibility"]
        assert modules["content-sqlite"]["services"] == ["content-sqlite", "content-backing"]
        assert not modules.keys() & {"job-shell", "sched", "broker"}
    assert ask(flux, "module.remove", {"name": "x"}) == (errno.ENOENT, None)
    assert ask(flux, "module.debug", {"name": "x"}) == (errno.ENOENT, None)
    errnum, text = ask(flux, "module.load", {"path": "x", "args": []})
    assert (errnum, text[:31]) == (errno.ENOENT, "module not found in search path")
    # A library that is not there; an embedded broker does not even look.
    errnum, text = ask(flux, "module.load", {"path": "/no/such/x.so", "args": []})
    assert errnum == errno.ENOTSUP if differs(engine, "modules are compiled") else errnum != errno.ENOTSUP


def test_runat(flux: Flux) -> None:
    assert ask(flux, "runat.push", {"name": "x", "commands": []}) == (errno.EPROTO, "commands array is empty")
    empty = (errno.EPROTO, "cannot push an empty command line")
    assert ask(flux, "runat.push", {"name": "x", "commands": [""]}) == empty
    assert ask(flux, "runat.push", {"name": "x", "commands": ["true"]}, 1) == {}


def test_shutdown_is_for_rank_0(flux: Flux) -> None:
    refused = (errno.EINVAL, "shutdown may only be initiated on rank 0")
    assert ask(flux, "shutdown.start", {"loglevel": 3}, 1) == refused


def test_guests_are_kept_out(flux: Flux, three: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HANDLE_USERID", "4242")
    monkeypatch.setenv("FLUX_HANDLE_ROLEMASK", "0x2")
    refused = (errno.EPERM, "Request requires owner credentials")
    with Flux(f"local://{three.rundir}/local-0") as guest:
        for rank in (0, 1):
            assert ask(guest, "attr.get", {"name": "size"}, rank)["value"] == "3"
            assert ask(guest, "state-machine.get", {}, rank)["state"] == "run"
            assert ask(guest, "config.get", {}, rank) == {}
            for topic in (
                "attr.set attr.rm runat.push shutdown.start rexec.exec rexec.list config.load broker.getenv "
                "log.dmesg log.clear overlay.disconnect-subtree groups.join state-machine.post module.load"
            ).split():
                assert ask(guest, topic, {}, rank) == refused, topic
        ping = ask(guest, "broker.ping", {})
        assert (ping["userid"], ping["rolemask"]) == (4242, 2)
        assert ask(guest, "service.add", {"service": "mine"}) == (errno.EPERM, None)
        assert ask(guest, "service.add", {"service": "4242-mine"}) == {}
