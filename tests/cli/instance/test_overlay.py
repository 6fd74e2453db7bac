"""`flux overlay`, on a network whose state the test makes up."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pytest_flux.cli.commands.instance.overlay import Topology
from pytest_flux.cli.flux import main
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker

Capture = pytest.CaptureFixture[str]

CHILDREN = {0: (1, 2), 1: (3, 4), 2: (5, 6), 3: (), 4: (), 5: (), 6: ()}
FULL = dict.fromkeys(CHILDREN, "full")


def topology(rank: int) -> dict[str, Any]:
    children = [topology(child) for child in CHILDREN[rank]]
    return {"rank": rank, "size": 1 + sum(child["size"] for child in children), "children": children}


class Network:
    """What each broker would say: its state, the errors that parents know of, and who does not answer."""

    def __init__(self, bed: ScriptedBroker) -> None:
        self.states = dict(FULL)
        self.errors: dict[int, str] = {}
        self.silent: set[int] = set()
        bed.attributes |= {"size": "7", "hostlist": "node[0-6]"}
        bed.on("overlay.topology", topology(0))
        bed.on("overlay.health", self._answer)

    def _answer(self, bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        rank = request.nodeid
        if rank not in CHILDREN:
            bed.answer(connection, request, errnum=errno.EHOSTUNREACH)
        elif rank not in self.silent:
            children = [self._describe(child) for child in CHILDREN[rank]]
            bed.answer(connection, request, self._describe(rank) | {"children": children})

    def _describe(self, rank: int) -> dict[str, Any]:
        known = {"rank": rank, "status": self.states[rank], "duration": 62.0 + rank}
        return known | ({"error": self.errors[rank]} if rank in self.errors else {})


@pytest.fixture
def network(bed: ScriptedBroker) -> Network:
    return Network(bed)


@pytest.fixture
def damaged(network: Network) -> Network:
    """Rank 1 is lost, and so those below it; rank 6 is offline."""
    network.states |= {0: "degraded", 1: "lost", 2: "partial", 6: "offline"}
    network.errors = {1: "lost connection", 6: "administrative shutdown"}
    return network


def status(capsys: Capture, *words: str) -> list[str]:
    assert main(["overlay", "status", *words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("network")
def test_tree(capsys: Capture) -> None:
    assert status(capsys) == [
        "0 node0: full",
        "├─ 1 node1: full",
        "│  ├─ 3 node3: full",
        "│  └─ 4 node4: full",
        "└─ 2 node2: full",
        "   ├─ 5 node5: full",
        "   └─ 6 node6: full",
    ]


@pytest.mark.usefixtures("network")
def test_subtree_and_flat(capsys: Capture) -> None:
    assert status(capsys, "-r", "2") == ["2 node2: full", "├─ 5 node5: full", "└─ 6 node6: full"]
    assert status(capsys, "--no-pretty", "--rank=2") == ["2 node2: full", "5 node5: full", "6 node6: full"]


@pytest.mark.usefixtures("network")
def test_verbose(capsys: Capture) -> None:
    assert status(capsys, "-v", "-r1")[0] == "1 node1: full for 1.05m"
    lines = status(capsys, "-vv", "-r1")
    assert lines[0].startswith("1 node1: full for 1.05m (")
    # At this level those without children are asked too.
    assert all(line.endswith(" ms)") for line in lines)


def test_only_brokers_with_children_are_asked(bed: ScriptedBroker, network: Network, capsys: Capture) -> None:
    assert network.states == FULL
    status(capsys)
    assert bed.requests.count("overlay.health") == 3


@pytest.mark.usefixtures("damaged")
def test_damage(capsys: Capture) -> None:
    assert status(capsys) == [
        "0 node0: degraded",
        "├─ 1 node1: lost lost connection",
        "│  ├─ 3 node3: lost",
        "│  └─ 4 node4: lost",
        "└─ 2 node2: partial",
        "   ├─ 5 node5: full",
        "   └─ 6 node6: offline administrative shutdown",
    ]
    assert status(capsys, "--no-ghost")[1:3] == ["├─ 1 node1: lost lost connection", "└─ 2 node2: partial"]
    assert status(capsys, "--down")[4:] == [
        "└─ 2 node2: partial",
        "   └─ 6 node6: offline administrative shutdown",
    ]
    assert status(capsys, "--summary") == ["degraded"]


@pytest.mark.usefixtures("damaged")
def test_color(capsys: Capture) -> None:
    lines = status(capsys, "--color")
    assert lines[1] == "├─ 1 node1: \x1b[31mlost\x1b[39m lost connection"
    assert lines[2] == "│  ├─ 3 node3: \x1b[90mlost\x1b[39m"
    assert lines[6] == "   └─ 6 node6: \x1b[33moffline\x1b[39m administrative shutdown"


@pytest.mark.usefixtures("network")
def test_nothing_is_down(capsys: Capture) -> None:
    assert status(capsys, "--down") == []


@pytest.mark.usefixtures("network")
def test_highlight(capsys: Capture) -> None:
    assert status(capsys, "-H", "node4")[:4] == [
        "<<0 node0>>: full",
        "├─ <<1 node1>>: full",
        "│  ├─ 3 node3: full",
        "│  └─ <<4 node4>>: full",
    ]
    assert status(capsys, "-H0", "-H", "5-6", "-L")[0] == "\x1b[01;34m0 node0\x1b[0m: full"


def test_broker_whose_end_nobody_noticed(network: Network, capsys: Capture) -> None:
    network.silent = {1}
    assert status(capsys, "-t", "50ms")[:4] == [
        "0 node0: full",
        "├─ 1 node1: Connection timed out",
        "│  ├─ 3 node3: full",
        "│  └─ 4 node4: full",
    ]


def test_wait(bed: ScriptedBroker, network: Network, capsys: Capture) -> None:
    def answer(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        assert request.is_streaming
        for state in ("partial", "degraded", "full", "lost"):
            value: dict[str, Any] = {"rank": 0, "status": state, "duration": 1.0, "children": []}
            bed.answer(connection, request, value)

    assert network.states == FULL
    bed.on("overlay.health", answer)
    assert status(capsys, "-w", "full") == ["0 node0: full"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-r", "9"], "flux-overlay: No route to host"),
        (["-w", "bad"], "flux-overlay: invalid --wait state"),
        (["-w", "lost", "-t", "20ms"], "flux-overlay: Connection timed out"),
        (["-H", "9"], "flux-overlay: --highlight: rank 9 not in set 0-6"),
        (["-H", "7-9"], "flux-overlay: --highlight: ranks 7-9 not in set 0-6"),
        (["-H", "foo"], "flux-overlay: Error decoding foo: host foo not found in host map"),
        (["-r", "x"], "flux overlay status: status: Option 'rank' requires an integer argument"),
        (["-t", "x"], "flux overlay status: status: Invalid argument for option 'timeout': 'x'"),
        (["-Lx"], "flux overlay status: Invalid argument to --color: 'x'"),
    ],
)
def test_status_that_fails(words: list[str], complaint: str, capsys: Capture) -> None:
    assert main(["overlay", "status", *words]) == 1
    assert capsys.readouterr().err == f"{complaint}\n"


@pytest.mark.usefixtures("damaged")
def test_errors(capsys: Capture) -> None:
    assert main(["overlay", "errors"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "node1: lost connection",
        "node6: administrative shutdown",
        "node[3-4]: lost parent",
    ]


def test_errors_of_who_cannot_be_asked(network: Network, capsys: Capture) -> None:
    network.silent = {2}
    assert main(["overlay", "errors", "-t", "20ms"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "node2: Connection timed out",
        "node[5-6]: lost parent",
    ]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["lookup", "1-3"], "node[1-3]"),
        (["lookup", "node[1-2]"], "1-2"),
        (["parentof", "5"], "2"),
        (["parentof", "2"], "0"),
    ],
)
def test_translations(words: list[str], output: str, capsys: Capture) -> None:
    assert main(["overlay", *words]) == 0
    assert capsys.readouterr().out == f"{output}\n"


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["lookup"], "single TARGET argument is required"),
        (["lookup", "foo"], "host foo not found in host map"),
        (["parentof"], "RANK is required"),
        (["parentof", "0"], "0 has no parent"),
        (["parentof", "99"], "99 is not a valid rank in this instance"),
        (["parentof", "x"], "x is not a rank"),
        (["disconnect"], "TARGET is required"),
        (["disconnect", "foo"], "TARGET must be a valid rank or hostname"),
    ],
)
def test_translations_that_fail(words: list[str], complaint: str, capsys: Capture) -> None:
    assert main(["overlay", *words]) == 1
    assert capsys.readouterr().err == f"flux-overlay: {complaint}\n"


@pytest.mark.usefixtures("network")
def test_disconnect(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("overlay.disconnect-subtree", {})
    assert main(["overlay", "disconnect", "node5"]) == 0
    assert capsys.readouterr().err == ("flux-overlay: asking node2 (rank 2) to disconnect child node5 (rank 5)\n")
    assert (bed.received[-1].nodeid, bed.received[-1].json()) == (2, {"rank": 5})
    assert main(["overlay", "disconnect", "-r0", "5"]) == 0
    assert bed.received[-1].nodeid == 0
    bed.on("overlay.disconnect-subtree", errnum=errno.ENOENT)
    capsys.readouterr()
    assert main(["overlay", "disconnect", "5"]) == 1
    assert capsys.readouterr().err.endswith("overlay.disconnect-subtree: No such file or directory\n")


def test_topology_that_cannot_be_had(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["overlay", "parentof", "1"]) == 1
    bed.on("overlay.topology", {"rank": 0})
    assert main(["overlay", "parentof", "1"]) == 1
    assert capsys.readouterr().err == (
        "flux-overlay: error fetching overlay topology: Function not implemented\n"
        "flux-overlay: error parsing topology\n"
    )


def test_trace_is_flux_cores(capsys: Capture) -> None:
    assert main(["overlay", "trace"]) == 1
    assert "flux-core" in capsys.readouterr().err


def test_topology() -> None:
    tree = Topology.parse(topology(0))
    assert tree.ranks == set(range(7))
    part = tree.find(2)
    assert part is not None
    assert part.ranks == {2, 5, 6}
    assert tree.find(7) is None
    assert [tree.parent_of(rank) for rank in range(7)] == [None, 0, 0, 1, 1, 2, 2]
