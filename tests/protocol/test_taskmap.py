"""Task maps in their four forms."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.taskmap import Block, Taskmap, decode_taskmap

INT_MAX = 2**31 - 1

small = st.integers(1, 4)
appended = st.lists(st.tuples(st.integers(0, 3), small, small), max_size=8)
blocks = st.builds(Block, st.integers(0, 3), small, small, small)
placements = st.lists(st.integers(0, 4), max_size=30)

near_misses = st.lists(
    st.sampled_from(
        [
            *("0", "1", "2", "0-1", "2-3", "-1", "true", "1.5", str(2**31), "9" * 5000),
            *(",", ";", ":", " ", "(", ")", "[", "]", "{", "}", '"'),
            *("(vector,", "(0,1,1)", "(0,2,2),", "[0,1,1,1]", '"version":1', '"map":'),
        ]
    )
).map("".join)
"""Strings that are task maps, or nearly."""


def expand(parts: list[Block]) -> list[int]:
    """The node of each task, by the words of RFC 34."""
    return [
        node
        for block in parts
        for _ in range(block.repeat)
        for node in range(block.nodeid, block.nodeid + block.nnodes)
        for _ in range(block.ppn)
    ]


def nodes(taskmap: Taskmap) -> list[int]:
    return [taskmap.node_of(task) for task in range(taskmap.ntasks)]


RFC_VECTORS = [
    # RFC 34, Test Vectors
    ("0", "[[0,1,1,1]]"),
    ("0;1", "[[0,2,1,1]]"),
    ("0-1", "[[0,1,2,1]]"),
    ("0-1;2-3", "[[0,2,2,1]]"),
    ("0,2;1,3", "[[0,2,1,2]]"),
    ("1;0", "[[1,1,1,1],[0,1,1,1]]"),
    ("0-3;4-7;8-11;12-15", "[[0,4,4,1]]"),
    ("0,4,8,12;1,5,9,13;2,6,10,14;3,7,11,15", "[[0,4,1,4]]"),
    ("0-1,8-9;2-3,10-11;4-5,12-13;6-7,14-15", "[[0,4,2,2]]"),
    ("0-1;2-3;4-5;6-7;8-11;12-15", "[[0,4,2,1],[4,2,4,1]]"),
    ("0,6;1,7;2,8;3,9;4,10,12,14;5,11,13,15", "[[0,6,1,2],[4,2,1,2]]"),
    ("14-15;12-13;10-11;8-9;4-7;0-3", "[[5,1,4,1],[4,1,4,1],[3,1,2,1],[2,1,2,1],[1,1,2,1],[0,1,2,1]]"),
    ("0-1;2-3;4-5;6-7;8-9;12-13;10-11;14-15", "[[0,5,2,1],[6,1,2,1],[5,1,2,1],[7,1,2,1]]"),
    ("12-15;8-11;4-7;0-3", "[[3,1,4,1],[2,1,4,1],[1,1,4,1],[0,1,4,1]]"),
]

PMI_VECTORS = [
    # RFC 34, Existing Implementations and Implementation: what both forms say of the same distribution
    ("(vector,(0,4,4))", "[[0,4,4,1]]"),
    ("(vector,(0,4,1),(0,4,1),(0,4,1),(0,4,1))", "[[0,4,1,4]]"),
    ("(vector,(0,4,2),(0,4,2))", "[[0,4,2,2]]"),
    ("(vector,(0,4,2),(4,2,4))", "[[0,4,2,1],[4,2,4,1]]"),
    ("(vector,(0,6,1),(0,6,1),(4,2,1),(4,2,1))", "[[0,6,1,2],[4,2,1,2]]"),
    ("(vector,(0,6,2),(4,2,2))", "[[0,6,2,1],[4,2,2,1]]"),
    ("(vector,(0,4096,256))", "[[0,4096,256,1]]"),
    # blocks that must not be joined
    ("(vector,(0,8,16),(0,4,32))", "[[0,8,16,1],[0,4,32,1]]"),
    ("(vector,(0,4,4),(0,4,1))", "[[0,4,4,1],[0,4,1,1]]"),
    ("(vector,(1,1,1),(0,2,2))", "[[1,1,1,1],[0,2,2,1]]"),
]


@pytest.mark.parametrize(("raw", "json"), RFC_VECTORS)
def test_raw_and_json(raw: str, json: str) -> None:
    assert decode_taskmap(raw).encode_json() == json
    assert decode_taskmap(json).encode_raw() == raw
    assert decode_taskmap(json).encode_json() == json


@pytest.mark.parametrize(("pmi", "json"), PMI_VECTORS)
def test_pmi_and_json(pmi: str, json: str) -> None:
    assert decode_taskmap(pmi).encode_json() == json
    assert decode_taskmap(json).encode_pmi() == pmi


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ('{"version":1, "map":[[0,4096,256,1]]}', "[[0,4096,256,1]]"),
        ('{"version":1,"map":[],"more":0}', "[]"),
        (" [ [0,1,1,1] ] ", "[[0,1,1,1]]"),
        ("[[0,2,1,1],[0,2,1,1]]", "[[0,2,1,1],[0,2,1,1]]"),
        # flux-core: numbers after the fourth, anything after a PMI block, empty raw elements
        ("[[0,1,1,1,5]]", "[[0,1,1,1]]"),
        ("    (vector, (0,4,4), (0,4,1), )", "[[0,4,4,1],[0,4,1,1]]"),
        ("(vector, (0,1,1), (1,5,3), (6,2, 5))", "[[0,1,1,1],[1,5,3,1],[6,2,5,1]]"),
        ("(vector,junk(0,1,4)junk", "[[0,1,4,1]]"),
        ("0;;1", "[[0,2,1,1]]"),
        ("0;,;1", "[[0,1,1,1],[2,1,1,1]]"),
    ],
)
def test_lenient_forms(text: str, json: str) -> None:
    assert decode_taskmap(text).encode_json() == json


@pytest.mark.parametrize("text", ["", "[]", '{"version":1,"map":[]}', "(vector,)", ";"])
def test_the_unknown_map(text: str) -> None:
    unknown = decode_taskmap(text)
    assert unknown == Taskmap()
    assert unknown.unknown
    assert (unknown.nnodes, unknown.ntasks) == (0, 0)
    assert (unknown.encode_pmi(), unknown.encode_raw(), unknown.encode_json()) == ("", "", "[]")
    for look_up in (unknown.node_of, unknown.tasks_of):
        with pytest.raises(ProtocolError):
            look_up(0)


REFUSED = [
    # raw
    ("badmode", "error parsing range 'badmode'"),
    ("-1", "error parsing range '-1'"),
    ("0; 1", "error parsing range ' 1'"),
    ("1-3;a-b", "error parsing range 'a-b'"),
    ("1,1", "range '1' is out of order"),
    ("0-1;1-2", "duplicate taskid specified: 1"),
    ("5-15;0-10", "duplicate taskids specified: 5-10"),
    ("0-9;3-5", "duplicate taskids specified: 3-5"),
    ("1", "missing taskid: 0"),
    ("3-4;0-1", "missing taskid: 2"),
    ("0-1;10-11", "missing taskids: 2-9"),
    # PMI
    ("vector, (1,1))", "unable to parse block: (1,1))"),
    ("(vector, (1.11, 2.2))", "unable to parse block: (1.11, 2.2))"),
    ("(vector,(,1,1))", "unable to parse block: (,1,1))"),
    ("(vector,(0,1,1", "unable to parse block: (0,1,1"),
    ("(vector, (1,1,0))", "invalid number in block: (1,1,0))"),
    ("(vector,(-1,1,1))", "invalid number in block: (-1,1,1))"),
    ("(vector,(0,4294967297,1))", "invalid number in block: (0,4294967297,1))"),
    ("((1,1,1), vector,)", "vector prefix must precede blocklist"),
    # JSON
    ("[[0,1,1]]", "error in taskmap entry: Array index 3 out of range"),
    ('[[0,1,1,"1"]]', "error in taskmap entry: Expected integer, got string"),
    ("[[0,1,1,true]]", "error in taskmap entry: Expected integer, got true"),
    ("[[0,1,1,1.0]]", "error in taskmap entry: Expected integer, got real"),
    ("[[0,1,1,null]]", "error in taskmap entry: Expected integer, got null"),
    ("[[-1,1,1,1]]", "invalid entry [-1,1,1,1]"),
    ("[[0,1,1,1],[0,1,0,1]]", "invalid entry [0,1,0,1]"),
    ("[[0,1,1,2147483648]]", "invalid entry [0,1,1,2147483648]"),
    ("[[0,1,1,1],1]", "entry 1 in taskmap is not an array"),
    ('"["', "taskmap must be an object or array"),
    ("{}", "Object item not found: version"),
    ('{"version":1}', "Object item not found: map"),
    ('{"version":"1","map":[]}', "Expected integer, got string"),
    ('{"version":2,"map":[[1,1,1,1]]}', "expected version=1, got 2"),
    ('{"version":1,"map":{}}', "taskmap must be an array"),
    ("((1,1,1))", "invalid token near '('"),
    ("foo[0-1]", "invalid token near 'foo'"),
    ("]", "unexpected token near ']'"),
    ("[[0,1,1,1]", "']' expected near end of file"),
    ("[[0,1,1,1 1]]", "']' expected near '1'"),
    ("[]x", "end of file expected near 'x'"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals_say_what_flux_says(text: str, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_taskmap(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("unit", "message"),
    [("[", "maximum parsing depth reached"), ("[[9", None), ("9", None), ("(vector,(0,1,", None)],
)
def test_long_refusals(unit: str, message: str | None) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_taskmap(unit[:-1] + unit[-1] * 100_000)


def test_the_launchers_cliques() -> None:
    assert Taskmap.single(4).encode_pmi() == "(vector,(0,1,4))"
    assert Taskmap.per_node(4).encode_pmi() == "(vector,(0,4,1))"
    for make in (Taskmap.single, Taskmap.per_node):
        with pytest.raises(ProtocolError, match="invalid entry"):
            make(0)


def test_tasks_and_nodes() -> None:
    taskmap = decode_taskmap("[[0,6,1,2],[4,2,1,2]]")
    assert (taskmap.nnodes, taskmap.ntasks) == (6, 16)
    assert taskmap.tasks_of(4) == [4, 10, 12, 14]
    assert taskmap.node_of(15) == 5
    for look_up, number in ((taskmap.node_of, 16), (taskmap.node_of, -1), (taskmap.tasks_of, 6)):
        with pytest.raises(ProtocolError, match="no such"):
            look_up(number)


def test_wrapped() -> None:
    text = Taskmap.per_node(2).encode_wrapped()
    assert text == '{"version":1,"map":[[0,2,1,1]]}'
    assert decode_taskmap(text) == Taskmap.per_node(2)


def test_raw_ranges_that_touch_are_one() -> None:
    assert decode_taskmap("[[0,1,2,3],[0,2,1,1]]").encode_raw() == "0-6;7"


def test_a_node_without_tasks_has_no_raw_form() -> None:
    with pytest.raises(ProtocolError, match="empty node"):
        decode_taskmap("[[1,1,1,1]]").encode_raw()


def test_equal_maps_are_one_in_a_set() -> None:
    assert {Taskmap.single(1), Taskmap.per_node(1), decode_taskmap("0")} == {Taskmap.single(1)}
    assert Taskmap.single(1) != "0"
    assert repr(Taskmap.single(1)) == "<Taskmap [[0,1,1,1]]>"


@pytest.mark.parametrize(
    ("before", "added", "after"),
    [
        ("[]", (3, 2, 1), "[[3,2,1,1]]"),
        # next node, same ppn
        ("[[0,3,4,1]]", (3, 1, 4), "[[0,4,4,1]]"),
        ("[[0,3,4,2]]", (3, 1, 4), "[[0,3,4,2],[3,1,4,1]]"),
        ("[[0,3,4,1]]", (3, 1, 8), "[[0,3,4,1],[3,1,8,1]]"),
        # the same node again
        ("[[0,1,3,1]]", (0, 1, 1), "[[0,1,4,1]]"),
        ("[[0,1,2,2]]", (0, 1, 1), "[[0,1,2,2],[0,1,1,1]]"),
        # the same block again
        ("[[0,4,4,1],[4,2,8,1]]", (4, 2, 8), "[[0,4,4,1],[4,2,8,2]]"),
        # a block that grows to be its predecessor
        ("[[0,2,1,3],[0,1,1,1]]", (1, 1, 1), "[[0,2,1,4]]"),
        # numbers stay those of C
        ("[[0,1,2147483647,1]]", (0, 1, 1), "[[0,1,2147483647,1],[0,1,1,1]]"),
        ("[[0,2,1,2147483647],[0,1,1,1]]", (1, 1, 1), "[[0,2,1,2147483647],[0,2,1,1]]"),
    ],
)
def test_append(before: str, added: tuple[int, int, int], after: str) -> None:
    taskmap = decode_taskmap(before)
    assert taskmap.append(*added).encode_json() == after
    assert taskmap.encode_json() == before


@pytest.mark.parametrize("added", [(-1, 1, 1), (0, 0, 1), (0, 1, 0), (2**31, 1, 1)])
def test_append_refuses_numbers_out_of_range(added: tuple[int, int, int]) -> None:
    with pytest.raises(ProtocolError, match="invalid entry"):
        Taskmap().append(*added)


def test_a_hostile_map_is_not_expanded() -> None:
    taskmap = decode_taskmap(f"[[0,{INT_MAX},{INT_MAX},{INT_MAX}],[0,1,{INT_MAX},1]]")
    assert taskmap.ntasks == INT_MAX**3 + INT_MAX
    assert taskmap.node_of(INT_MAX**3 - 1) == INT_MAX - 1
    asked: list[Callable[[], object]] = [
        taskmap.encode_pmi,
        taskmap.encode_raw,
        lambda: taskmap.tasks_of(0),
    ]
    for ask in asked:
        with pytest.raises(ProtocolError, match="more than 1048576"):
            ask()
    assert decode_taskmap(f"0-{INT_MAX - 1}").blocks == (Block(0, 1, INT_MAX),)


@given(st.lists(blocks, max_size=6))
@example([Block(0, 1, 2, 3)])
def test_lookups_do_as_the_rfc_says(parts: list[Block]) -> None:
    taskmap = Taskmap(parts)
    expected = expand(parts)
    assert nodes(taskmap) == expected
    assert taskmap.nnodes == max(expected, default=-1) + 1
    for node in set(expected):
        assert taskmap.tasks_of(node) == [task for task, on in enumerate(expected) if on == node]


@given(appended)
def test_append_loses_no_task(steps: list[tuple[int, int, int]]) -> None:
    taskmap = Taskmap()
    for step in steps:
        taskmap = taskmap.append(*step)
    assert nodes(taskmap) == expand([Block(*step) for step in steps])


@given(appended)
def test_round_trip_of_what_was_appended(steps: list[tuple[int, int, int]]) -> None:
    taskmap = Taskmap()
    for step in steps:
        taskmap = taskmap.append(*step)
    assert decode_taskmap(taskmap.encode_json()) == decode_taskmap(taskmap.encode_wrapped()) == taskmap
    # Decoding the PMI form puts blocks together that appending tasks bit by bit leaves apart.
    assert nodes(decode_taskmap(taskmap.encode_pmi())) == nodes(taskmap)


@given(st.lists(blocks, max_size=6))
def test_round_trip_of_json_is_exact(parts: list[Block]) -> None:
    taskmap = Taskmap(parts)
    assert decode_taskmap(taskmap.encode_json()) == taskmap
    assert nodes(decode_taskmap(taskmap.encode_pmi())) == nodes(taskmap)


@given(placements)
def test_round_trip_of_raw(placement: list[int]) -> None:
    used = sorted(set(placement))
    raw = ";".join(encode_idset(task for task, node in enumerate(placement) if node == on) for on in used)
    taskmap = decode_taskmap(raw)
    assert nodes(taskmap) == [used.index(node) for node in placement]
    assert taskmap.encode_raw() == raw


@given(st.text() | near_misses)
def test_any_text_is_a_map_or_refused(text: str) -> None:
    try:
        taskmap = decode_taskmap(text)
    except ProtocolError:
        return
    assert decode_taskmap(taskmap.encode_json()) == taskmap


@pytest.mark.system_flux
@pytest.mark.parametrize(
    "text",
    ["", "0-1;2-3", "0,6;1,7;2,8;3,9;4,10,12,14;5,11,13,15", "[[0,4,1,4]]", "badmode", "0-1;10-11", "[[0,1,1]]"],
)
def test_flux_agrees(system_flux: str, text: str) -> None:
    done = subprocess.run(
        [system_flux, "job", "taskmap", "--to=pmi", text], capture_output=True, text=True, check=False
    )
    try:
        expected = (0, decode_taskmap(text).encode_pmi(), "")
    except ProtocolError as error:
        expected = (1, "", f"flux-job: error decoding taskmap: {error}")
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == expected
