from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_flux.broker.boot.bizcard import Bizcard
from pytest_flux.broker.boot.boot import Boot, BootError, PeerCards, bootstrap, interface_hint, mapping
from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.protocol import pmi
from pytest_flux.protocol.pmi_server import Abort, Finalized, PmiServer, Reply

RECORDINGS = Path(__file__).parents[2] / "protocol" / "data"


class Launcher:
    """A PMI server with a connection per rank, served by a thread until all ranks are gone."""

    def __init__(self, size: int, kvs: Mapping[str, str] | None = None, kvsname: str = "-") -> None:
        self.lines: list[str] = []
        self.aborts: list[Abort] = []
        self.size = size
        self._server = PmiServer(size, kvs=kvs, kvsname=kvsname, trace=self.lines.append)
        pairs = [socket.socketpair() for _ in range(size)]
        self._sockets = [ours for ours, _ in pairs]
        self.fds = [theirs.detach() for _, theirs in pairs]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def environ(self, rank: int) -> dict[str, str]:
        return {"PMI_FD": str(self.fds[rank]), "PMI_RANK": str(rank), "PMI_SIZE": str(self.size)}

    def conversation(self, rank: int) -> list[str]:
        """What was said with ``rank``, but for what stands in the business cards."""
        lines = [line for line in self.lines if line.startswith(f"{rank}: ")]
        return [re.sub(r'value=\{"host".*', "value=CARD", line) for line in lines]

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in enumerate(self._sockets):
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    data = self._sockets[key.data].recv(4096)
                    if not data:
                        selector.unregister(key.fileobj)
                        self._sockets[key.data].close()
                    for event in self._server.receive(key.data, data):
                        if isinstance(event, Reply):
                            self._sockets[event.rank].sendall(pmi.encode_line(event.line))
                        elif isinstance(event, Finalized):
                            selector.unregister(self._sockets[event.rank])
                            self._sockets[event.rank].close()
                        else:
                            self.aborts.append(event)


@contextlib.contextmanager
def launched(size: int, kvs: Mapping[str, str] | None = None, kvsname: str = "-") -> Iterator[Launcher]:
    launcher = Launcher(size, kvs, kvsname)
    try:
        yield launcher
    finally:
        for fd in launcher.fds:
            # Those of clients that finalized are closed already.
            with contextlib.suppress(OSError):
                os.close(fd)
        launcher.join()


def every_rank(launcher: Launcher, broker: Callable[[int], PeerCards]) -> list[PeerCards]:
    with ThreadPoolExecutor(launcher.size) as pool:
        return list(pool.map(broker, range(launcher.size), timeout=30))


def recording(size: int) -> dict[int, list[str]]:
    lines = (RECORDINGS / f"pmi-trace-size{size}.txt").read_text().splitlines()
    said = [re.sub(r'value=\{"host".*', "value=CARD", line) for line in lines if re.match(r"\d+: [CS]: ", line)]
    return {rank: [line for line in said if line.startswith(f"{rank}: ")] for rank in range(size)}


# -- the conversation


@pytest.mark.parametrize("size", [1, 4])
def test_the_conversation_is_the_recorded_one(size: int) -> None:
    topology = Topology("kary:32", size)

    def broker(rank: int) -> PeerCards:
        boot = bootstrap(launcher.environ(rank), {}, "vm")
        assert (boot.method, boot.rank, boot.size, boot.name) == ("simple", rank, size, "-")
        assert not boot.under_flux
        assert interface_hint(boot) is None
        assert mapping(boot) == f"[[0,1,{size},1]]"
        uris = (f"ipc:///tmp/tbon-{rank}",) if topology.children(rank) else ()
        return boot.exchange(Bizcard("vm", uris), topology)

    with launched(size, {"PMI_process_mapping": f"(vector,(0,1,{size}))"}) as launcher:
        peers = every_rank(launcher, broker)
    for rank in range(size):
        assert launcher.conversation(rank) == recording(size)[rank]
        assert [card.host for card in peers[rank].cards] == ["vm"] * size
        assert peers[rank].hostlist == ",".join(["vm"] * size)
        assert peers[rank].parent_endpoint == ("ipc:///tmp/tbon-0" if rank else "")


def test_every_rank_learns_the_endpoint_of_its_own_parent() -> None:
    topology = Topology("binomial", 6)

    def broker(rank: int) -> PeerCards:
        boot = bootstrap(launcher.environ(rank), {}, f"fake{rank}")
        return boot.exchange(Bizcard(f"fake{rank}", (f"ipc:///tmp/tbon-{rank}",)), topology)

    with launched(6) as launcher:
        peers = every_rank(launcher, broker)
    for rank in range(1, 6):
        assert peers[rank].parent_endpoint == f"ipc:///tmp/tbon-{topology.parent(rank)}"
    assert {peer.hostlist for peer in peers} == {"fake[0-5]"}


@pytest.mark.parametrize("kvsname", ["-", "kvs_1_0"])
def test_many_cards(kvsname: str) -> None:
    # More than are asked for at once, of a server that can bear it.
    topology = Topology("kary:0", 70)

    def broker(rank: int) -> PeerCards:
        boot = bootstrap(launcher.environ(rank), {}, f"fake{rank}")
        return boot.exchange(Bizcard(f"fake{rank}", (f"ipc:///tmp/tbon-{rank}",)), topology)

    with launched(70, kvsname=kvsname) as launcher:
        peers = every_rank(launcher, broker)
    assert {peer.hostlist for peer in peers} == {"fake[0-69]"}
    conversations = [[line[line.index(" ") + 1 :] for line in launcher.conversation(rank)] for rank in (1, 69)]
    assert len(conversations[0]) == len(conversations[1]) == 2 * (4 + 4 + 69 + 1)
    assert all(line.startswith(said) for line, said in zip(conversations[0], ["C: ", "S: "] * 100, strict=False))


def test_what_flux_tells_the_instances_it_starts() -> None:
    kvs = {
        "flux.instance-level": "1",
        "flux.tbon-interface-hint": "eth0",
        "flux.taskmap": '{"version":1,"map":[[0,2,1,1]]}',
        "PMI_process_mapping": "(vector,(0,1,2))",
    }
    with launched(2, kvs, kvsname="f2Xy") as launcher:
        boot = bootstrap(launcher.environ(1), {}, "vm")
        assert boot.under_flux
        assert boot.instance_level == "1"
        assert boot.name == "f2Xy"
        assert interface_hint(boot) == "eth0"
        assert mapping(boot) == "[[0,2,1,1]]"
        boot.close()
    asked = [line.rpartition("key=")[2] for line in launcher.lines if "C: cmd=get " in line]
    assert asked == ["flux.instance-level", "flux.tbon-interface-hint", "flux.taskmap"]


@pytest.mark.parametrize(
    ("kvs", "expected"),
    [
        ({}, None),
        ({"PMI_process_mapping": "(vector,(0,1,1),(1,1,1))"}, "[[0,2,1,1]]"),
        ({"PMI_process_mapping": ""}, "[]"),
        ({"flux.instance-level": "1", "PMI_process_mapping": "(vector,(0,1,2))"}, "[[0,1,2,1]]"),
        # Only Flux's word counts about Flux's key.
        ({"flux.taskmap": "[[0,2,1,1]]"}, None),
    ],
)
def test_the_mapping(kvs: dict[str, str], expected: str | None) -> None:
    with launched(2, kvs) as launcher:
        boot = bootstrap(launcher.environ(0), {}, "vm")
        assert mapping(boot) == expected
        boot.close()


def test_a_mapping_that_makes_no_sense() -> None:
    with launched(2, {"PMI_process_mapping": "(vector,(0,0,0))"}) as launcher:
        boot = bootstrap(launcher.environ(0), {}, "vm")
        with pytest.raises(BootError, match=r"^simple: PMI_process_mapping: invalid number in block: \(0,0,0\)"):
            mapping(boot)
        boot.close()


def test_the_connection_is_not_inherited_and_closed_at_the_end() -> None:
    with launched(1) as launcher:
        os.set_inheritable(launcher.fds[0], True)
        boot = bootstrap(launcher.environ(0), {}, "vm")
        assert not os.get_inheritable(launcher.fds[0])
        boot.finalize()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(launcher.fds[0])


def test_put_get_and_abort() -> None:
    with launched(1) as launcher:
        boot = bootstrap(launcher.environ(0), {}, "vm")
        boot.put("key", "a value = of words")
        assert boot.get("key") == "a value = of words"
        assert boot.get("other") is None
        with pytest.raises(BootError, match=r"^simple: put long: invalid val length argument$"):
            boot.put("long", "x" * 1024)
        with pytest.raises(SystemExit, match="3"):
            boot.abort("no\nreason", 3)
        boot.close()
    assert launcher.aborts == [Abort(0, 3, "no reason")]


# -- several hosts


REFUSAL = "this embedded broker serves one host; {}: install flux-core for instances of several hosts"


def exchange_from(machines: list[str], hosts: list[str]) -> list[str]:
    """What each rank says about an instance whose ranks are on these machines; empty if it boots."""
    size = len(machines)

    def broker(rank: int) -> str:
        boot = bootstrap(launcher.environ(rank), {}, hosts[rank])
        card = Bizcard(hosts[rank], (f"ipc:///tmp/tbon-{rank}",), machine=machines[rank])
        try:
            boot.exchange(card, Topology("kary:2", size))
        except BootError as error:
            return str(error)
        return ""

    with launched(size) as launcher, ThreadPoolExecutor(size) as pool:
        return list(pool.map(broker, range(size), timeout=30))


def test_brokers_of_several_hosts_name_flux_core() -> None:
    assert (
        exchange_from(["m0", "m1", "m1", "m1"], ["vm", "node", "node", "node"])
        == [REFUSAL.format("ranks 1-3 run on node")] * 4
    )
    assert exchange_from(["m0", "m0", "m1"], ["a0", "a1", "a2"]) == [REFUSAL.format("rank 2 runs on a2")] * 3
    assert exchange_from(["m0", "m1", "m2"], ["a", "b1", "b2"])[0] == REFUSAL.format("ranks 1-2 run on b[1-2]")


def test_one_host_under_several_names_is_one_host() -> None:
    assert exchange_from(["m0", "m0"], ["fake0", "fake1"]) == ["", ""]


# -- which method


def test_single_is_the_last_resort() -> None:
    trace: list[str] = []
    boot = bootstrap({}, {}, "vm", trace=trace.append)
    assert (boot.method, boot.rank, boot.size, boot.name) == ("single", 0, 1, "single")
    assert mapping(boot) == "[[0,1,1,1]]"
    boot.put("key", "value")
    boot.barrier()
    assert boot.get("key") == "value"
    assert boot.exchange(Bizcard("vm"), Topology("kary:2", 1)) == ([Bizcard("vm")], "vm", "")
    # FLUX_PMI_DEBUG=1 flux start true, flux-core 0.88; its words for the PMI libraries it tried are its own.
    assert [line for line in trace if "libpmi" not in line] == [
        "bootstrap: flux-pmi-client: trying 'config'",
        "bootstrap: config: bootstrap configuration not found",
        "bootstrap: flux-pmi-client: trying 'simple'",
        "bootstrap: simple: PMI_FD not found in environ",
        "bootstrap: flux-pmi-client: trying 'single'",
        "bootstrap: single: selected",
        "bootstrap: single: initialize: rank=0 size=1 name=single: success",
        "bootstrap: single: get key=flux.instance-level: key not found",
        "bootstrap: single: put key=key value=value: success",
        "bootstrap: single: barrier: success",
        "bootstrap: single: get key=key value=value: success",
        "bootstrap: single: finalize: success",
    ]


def test_the_trace_goes_to_stderr_if_the_environment_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    bootstrap({"FLUX_PMI_DEBUG": "", "FLUX_PMI_CLIENT_METHODS": "single"}, {}, "vm")
    assert capfd.readouterr().err.splitlines()[:2] == [
        "bootstrap: flux-pmi-client: trying 'single'",
        "bootstrap: single: selected",
    ]
    bootstrap({}, {}, "vm")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("simple", "PMI_FD not found in environ"),
        ("config", "bootstrap configuration not found"),
        ("foo", "plugin matching 'foo' not found"),
        ("libpmi", "the embedded broker loads no PMI library: use simple, or install flux-core"),
        ("libpmi2:/usr/lib/x.so", "the embedded broker loads no PMI library: use simple, or install flux-core"),
    ],
)
def test_methods_that_fail(method: str, text: str) -> None:
    with pytest.raises(BootError) as failure:
        bootstrap({}, {}, "vm", method=method)
    assert str(failure.value) == text
    with pytest.raises(BootError) as failure:
        bootstrap({"FLUX_PMI_CLIENT_METHODS": f"bar {method.partition(':')[0]}"}, {}, "vm")
    assert str(failure.value) == text


def test_a_forced_method_is_taken_although_another_would_come_first() -> None:
    with launched(2) as launcher:
        assert bootstrap(launcher.environ(1), {}, "vm", method="single").size == 1


def test_no_method_at_all() -> None:
    with pytest.raises(BootError, match="FLUX_PMI_CLIENT_METHODS names no method"):
        bootstrap({"FLUX_PMI_CLIENT_METHODS": ""}, {}, "vm")


@pytest.mark.parametrize(
    ("fd", "rank", "size", "text"),
    [
        ("x", "0", "1", "create context: Invalid argument (PMI_FD=x PMI_RANK=0 PMI_SIZE=1)"),
        ("0", "1", "1", "create context: Invalid argument (PMI_FD=0 PMI_RANK=1 PMI_SIZE=1)"),
        ("0", "-1", "1", "create context: Invalid argument (PMI_FD=0 PMI_RANK=-1 PMI_SIZE=1)"),
        ("-1", "0", "1", "create context: Bad file descriptor (PMI_FD=-1)"),
        ("9999", "0", "1", "create context: Bad file descriptor (PMI_FD=9999)"),
    ],
)
def test_environments_that_no_launcher_makes(fd: str, rank: str, size: str, text: str) -> None:
    with pytest.raises(BootError) as failure:
        bootstrap({"PMI_FD": fd, "PMI_RANK": rank, "PMI_SIZE": size}, {}, "vm", method="simple")
    assert str(failure.value) == text


# -- the configuration

HOSTS = [
    {"host": "fake0", "bind": "ipc:///tmp/t0", "connect": "ipc:///tmp/t0"},
    {"host": "fake1", "bind": "ipc:///tmp/t1", "connect": "ipc:///tmp/t1", "parent": "fake0"},
    {"host": "fake2", "parent": "fake1"},
]


def test_brokers_of_a_configuration() -> None:
    config = {"bootstrap": {"curve_cert": "/dev/null", "hosts": HOSTS}}
    boot = bootstrap({}, config, "fake2")
    assert (boot.method, boot.rank, boot.size) == ("config", 2, 3)
    assert mapping(boot) == "[[0,3,1,1]]"
    assert [host["host"] for host in boot.hosts] == ["fake0", "fake1", "fake2"]
    peers = boot.exchange(Bizcard("fake2"), Topology("custom", 3, [-1, 0, 1]))
    assert peers.hostlist == "fake[0-2]"
    assert peers.parent_endpoint == "ipc:///tmp/t1"


def test_a_configured_parent_without_an_endpoint() -> None:
    config = {"bootstrap": {"curve_cert": "/dev/null", "hosts": HOSTS}}
    boot = bootstrap({}, config, "fake1")
    with pytest.raises(BootError, match=r"^config: the business card of rank 2 has no URI to connect to$"):
        boot.exchange(Bizcard("fake1"), Topology("custom", 3, [-1, 2, 0]))


def test_configured_brokers_of_several_hosts() -> None:
    hosts = [{"host": "a[0-2]", "bind": "tcp://eth0:5", "connect": "tcp://%h:5"}]
    boot = bootstrap({}, {"bootstrap": {"curve_cert": "/dev/null", "hosts": hosts}}, "a1")
    with pytest.raises(BootError, match=re.escape("ranks 1-2 run on a[1-2]: install flux-core")):
        boot.exchange(Bizcard("a1"), Topology("kary:2", 3))


def test_a_host_that_is_not_configured() -> None:
    with pytest.raises(BootError, match=r"^config: initialize: .*vm not found in hosts$"):
        bootstrap({}, {"bootstrap": {"curve_cert": "/dev/null", "hosts": HOSTS}}, "vm")


def test_a_configuration_of_one() -> None:
    boot = bootstrap({}, {"bootstrap": {}}, "vm")
    assert (boot.method, boot.rank, boot.size) == ("config", 0, 1)
    assert boot.exchange(Bizcard("vm"), Topology("custom", 1)).hostlist == "vm"


# -- other servers


@contextlib.contextmanager
def scripted(*answers: bytes) -> Iterator[dict[str, str]]:
    """A server that reads a line and says the next of ``answers``, and hangs up after the last one."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        # The client hangs up on answers that it cannot bear.
        with ours, ours.makefile("rb") as requests, contextlib.suppress(OSError):
            for answer in answers:
                requests.readline()
                ours.sendall(answer)
            requests.readline()

    thread = threading.Thread(target=serve)
    thread.start()
    fd = theirs.detach()
    try:
        yield {"PMI_FD": str(fd), "PMI_RANK": "0", "PMI_SIZE": "2"}
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
        thread.join(30)


def test_hydra_of_mpich_5_speaks_pmi_1_2() -> None:
    answers = (
        b"cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=2\n",
        b"cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024\n",
        b"cmd=my_kvsname rc=0 kvsname=kvs_9488_0_688829409_vm\n",
        b"cmd=get_result rc=1\n",
        b"cmd=get_result rc=0 value=(vector,(0,1,2))\n",
        b"cmd=barrier_out tag=0\n",
        b"cmd=finalize_ack rc=0\n",
    )
    with scripted(*answers) as environ:
        boot = bootstrap(environ, {}, "vm")
        assert boot.name == "kvs_9488_0_688829409_vm"
        assert mapping(boot) == "[[0,1,2,1]]"
        boot.barrier()
        boot.finalize()


def test_hydra_of_mpich_4_leaves_out_codes_and_adds_words() -> None:
    answers = (
        b"cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n",
        b"cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\n",
        b"cmd=my_kvsname kvsname=kvs_9572_0_1459033194_vm\n",
        b"cmd=get_result rc=-1 msg=key_flux.instance-level_not_found value=unknown\n",
        b"cmd=get_result rc=0 msg=success value=(vector,(0,1,1))\n",
        b"cmd=barrier_out\n",
        b"cmd=finalize_ack\n",
    )
    with scripted(*answers) as environ:
        boot = bootstrap(environ, {}, "vm")
        assert mapping(boot) == "[[0,1,1,1]]"
        boot.barrier()
        boot.finalize()


GREETINGS = (
    b"cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1\n",
    b"cmd=maxes rc=0 kvsname_max=64 keylen_max=64 vallen_max=1024\n",
    b"cmd=my_kvsname rc=0 kvsname=-\n",
    b"cmd=get_result rc=4\n",
)


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ((), "simple: initialize: operation failed"),
        ((b"cmd=response_to_init rc=-1\n",), "simple: initialize: operation failed"),
        ((b"cmd=response_to_init rc=2\n",), "simple: initialize: input buffer not large enough"),
        ((b"cmd=response_to_init rc=99\n",), "simple: initialize: pmi error 99"),
        ((b"cmd=response_to_init rc=0 pmi_version=2 pmi_subversion=0\n",), "does not speak version 1.1"),
        ((b"cmd=response_to_init rc=0 pmi_version=1\n",), "sent no pmi_subversion"),
        ((b"cmd=maxes rc=0\n",), "answered init with maxes"),
        ((b"hello\n",), "PMI response without cmd="),
        ((b"x" * 100_000,), "longer than"),
        ((GREETINGS[0], b"cmd=maxes rc=0 vallen_max=many\n"), "sent no vallen_max"),
        (GREETINGS[:3], "simple: get flux.instance-level: operation failed"),
    ],
)
def test_servers_that_misbehave(answers: tuple[bytes, ...], text: str) -> None:
    with scripted(*answers) as environ, pytest.raises(BootError) as failure:
        bootstrap(environ, {}, "vm", method="simple")
    assert text in str(failure.value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"cmd=get_result rc=4\n", "error fetching bizcard for rank 1: simple: get 1: key not found"),
        (b"cmd=get_result rc=0\n", "error fetching bizcard for rank 1: simple: get 1: key not found"),
        (b"cmd=get_result rc=0 value={}\n", "error decoding rank 1 business card: business card"),
    ],
)
def test_cards_that_are_none(answer: bytes, text: str) -> None:
    with scripted(*GREETINGS, b"cmd=put_result rc=0\n", b"cmd=barrier_out rc=0\n", answer) as environ:
        boot = bootstrap(environ, {}, "vm")
        with pytest.raises(BootError) as failure:
            boot.exchange(Bizcard("vm"), Topology("kary:2", 2))
        boot.close()
    assert str(failure.value).startswith(text)


def test_a_server_that_dies_in_a_barrier() -> None:
    with scripted(*GREETINGS) as environ:
        boot: Boot = bootstrap(environ, {}, "vm")
        with pytest.raises(BootError, match=r"^simple: barrier: operation failed: the PMI server closed"):
            boot.barrier()
        boot.close()


# -- real servers

PROGRAM = """
import os, sys
from pytest_flux.broker.boot.bizcard import Bizcard
from pytest_flux.broker.boot.boot import bootstrap, mapping
from pytest_flux.broker.overlay.topology import Topology
boot = bootstrap(os.environ, {}, "fake%d" % int(os.environ["PMI_RANK"]))
mapping(boot)
uris = ("ipc:///tmp/a dir/tbon-%d" % boot.rank,)
peers = boot.exchange(Bizcard("fake%d" % boot.rank, uris), Topology("kary:1", boot.size))
sys.stdout.write(f"{boot.rank} {boot.size} {peers.hostlist} {peers.parent_endpoint}\\n")
"""


@pytest.mark.parametrize("place", ["venv", "system"])
def test_boot_under_hydra(place: str) -> None:
    path = os.path.dirname(sys.executable) if place == "venv" else os.defpath
    mpiexec = shutil.which("mpiexec.hydra", path=path)
    if mpiexec is None:
        pytest.skip(f"no mpiexec.hydra in {path}")
    command = [mpiexec, "-n", "3", sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert sorted(result.stdout.splitlines()) == [
        "0 3 fake[0-2] ",
        "1 3 fake[0-2] ipc:///tmp/a dir/tbon-0",
        "2 3 fake[0-2] ipc:///tmp/a dir/tbon-1",
    ]
