from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.broker.overlay.topology import Topology, custom_parents

# overlay.topology of flux-core 0.88, size 8: each rank with its children.
RECORDED = {
    "kary:2": {0: [1, 2], 1: [3, 4], 2: [5, 6], 3: [7]},
    "kary:0": {0: [1, 2, 3, 4, 5, 6, 7]},
    "kary:32": {0: [1, 2, 3, 4, 5, 6, 7]},
    "binomial": {0: [1, 2, 4], 2: [3], 4: [5, 6], 6: [7]},
    "mincrit:2": {0: [1, 2], 1: [3, 5, 7], 2: [4, 6]},
    "mincrit": {0: [1, 2, 3, 4, 5, 6, 7]},
    "custom": {0: [1, 2, 3, 4, 5, 6, 7]},
}


@pytest.mark.parametrize("uri", RECORDED)
def test_schemes_make_the_recorded_trees(uri: str) -> None:
    topology = Topology(uri, 8)
    assert {rank: topology.children(rank) for rank in range(8) if topology.children(rank)} == RECORDED[uri]


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("kary", "kary k value must be an integer >= 0"),
        ("kary:", "kary k value must be an integer >= 0"),
        ("kary:x", "kary k value must be an integer >= 0"),
        ("kary:2x", "kary k value must be an integer >= 0"),
        ("kary:-1", "kary k value must be an integer >= 0"),
        ("kary:\N{ARABIC-INDIC DIGIT TWO}", "kary k value must be an integer >= 0"),
        ("kary:" + "9" * 30, "kary k value must be an integer >= 0"),
        ("mincrit:x", "mincrit k value must be an integer >= 0"),
        ("binomial:3", "unknown binomial topology directive: '3'"),
        ("custom:x", "unknown custom topology directive: 'x'"),
        ("foo:bar", "unknown topology scheme 'foo'"),
        ("", "unknown topology scheme ''"),
    ],
)
def test_bad_uris_are_refused_in_the_words_of_flux(uri: str, text: str) -> None:
    with pytest.raises(ValueError) as failure:  # noqa: PT011 - the whole text is compared
        Topology(uri, 4)
    assert str(failure.value) == text


@pytest.mark.parametrize("uri", ["kary: 2", "kary:+2", "binomial:", "mincrit:", "custom:"])
def test_uris_that_flux_accepts_are_accepted(uri: str) -> None:
    assert Topology(uri, 4).size == 4


def test_a_topology_has_at_least_one_rank() -> None:
    with pytest.raises(ValueError, match=r"^invalid topology size 0$"):
        Topology("kary:2", 0)
    assert Topology("kary:2", 1).subtree_json(0) == {"rank": 0, "size": 1, "children": []}


def test_levels_and_counts() -> None:
    topology = Topology("kary:2", 8)
    assert [topology.level(rank) for rank in range(8)] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert topology.maxlevel == 3
    assert [topology.descendant_count(rank) for rank in range(8)] == [7, 3, 2, 1, 0, 0, 0, 0]
    assert topology.descendants(1) == [3, 4, 7]
    assert topology.internal_ranks() == [0, 1, 2, 3]
    assert Topology("kary:0", 1).internal_ranks() == [0]


def test_the_subtree_has_the_shape_of_overlay_topology() -> None:
    leaf: dict[str, Any] = {"rank": 7, "size": 1, "children": []}
    expected = {
        "rank": 1,
        "size": 4,
        "children": [
            {"rank": 3, "size": 2, "children": [leaf]},
            {"rank": 4, "size": 1, "children": []},
        ],
    }
    assert json.dumps(Topology("kary:2", 8).subtree_json(1)) == json.dumps(expected)


def test_a_tree_as_deep_as_it_has_ranks() -> None:
    topology = Topology("kary:1", 4096)
    assert topology.maxlevel == 4095
    assert topology.next_hop(17, 4095) == 18
    assert topology.subtree_json(0)["size"] == 4096


def test_mincrit_keeps_rank_0_from_having_too_many_children() -> None:
    assert len(Topology("mincrit", 1025).children(0)) == 1024
    assert Topology("mincrit", 1026).children(0) == [1, 2]
    assert len(Topology("mincrit", 4096).children(0)) == 4
    assert Topology("mincrit:4095", 4096).maxlevel == 1


@pytest.mark.parametrize("rank", [-1, 4])
def test_ranks_that_do_not_exist(rank: int) -> None:
    topology = Topology("kary:2", 4)
    with pytest.raises(ValueError, match=f"no rank {rank} in a topology of size 4"):
        topology.children(rank)
    with pytest.raises(ValueError, match="no rank"):
        topology.next_hop(rank, 0)
    assert topology.next_hop(0, rank) is None


def trees() -> st.SearchStrategy[Topology]:
    def build(uri: str, size: int, numbers: list[int]) -> Topology:
        # Any tree, once its ranks are renamed: each rank hangs below one that came before it.
        parents = [-1] + [numbers[rank % len(numbers)] % rank for rank in range(1, size)]
        return Topology(uri, size, parents)

    uris = st.sampled_from(["kary:0", "kary:1", "kary:2", "kary:7", "binomial", "mincrit:3", "custom"])
    return st.builds(build, uris, st.integers(1, 60), st.lists(st.integers(0, 2**20), min_size=1))


@given(trees(), st.data())
def test_every_route_arrives_by_the_shortest_way(topology: Topology, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, topology.size - 1))
    target = data.draw(st.integers(0, topology.size - 1))
    here, visited = start, [start]
    while here != target:
        hop = topology.next_hop(here, target)
        assert hop is not None
        assert topology.parent(here) == hop or topology.parent(hop) == here
        assert hop not in visited
        here = hop
        visited.append(here)
    assert topology.next_hop(target, target) is None


@given(trees())
def test_the_questions_about_a_tree_agree(topology: Topology) -> None:
    for rank in range(topology.size):
        below = topology.descendants(rank)
        assert topology.descendant_count(rank) == len(below)
        assert below == sorted({*topology.children(rank)}.union(*map(topology.descendants, topology.children(rank))))
        parent = topology.parent(rank)
        if parent is not None:
            assert rank in topology.children(parent)
            assert topology.level(rank) == topology.level(parent) + 1
    assert len(topology.descendants(0)) == topology.size - 1


def test_custom_parents_come_from_the_hosts() -> None:
    hosts = [{"host": "a"}, {"host": "b", "parent": "c"}, {"host": "c"}, {"host": "d", "parent": "b"}]
    parents = custom_parents(hosts)
    assert parents == [-1, 2, 0, 1]
    assert Topology("custom", 4, parents).maxlevel == 3


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (
            [{"host": "a", "parent": "b"}, {"host": "b"}],
            "rank 0 (a) may not have a parent in a tree topology",
        ),
        ([{"host": "a"}, {"host": "b", "parent": "x"}], 'invalid parent "x" for b (rank 1)'),
        (
            [{"host": "a"}, {"host": "b", "parent": "b"}],
            'parent "b" for b (rank 1) violates rule against cycles',
        ),
        (
            [{"host": "a"}, {"host": "b", "parent": "c"}, {"host": "c", "parent": "b"}],
            'parent "b" for c (rank 2) violates rule against cycles',
        ),
    ],
)
def test_hosts_that_make_no_tree(hosts: list[dict[str, str]], text: str) -> None:
    with pytest.raises(ValueError) as failure:  # noqa: PT011 - the whole text is compared
        custom_parents(hosts)
    assert str(failure.value) == "Config file [bootstrap] hosts: " + text


@pytest.mark.parametrize("parents", [[-1], [-1, 0, 3], [-1, 0, -1], [-1, 2, 1]])
def test_parents_that_make_no_tree(parents: list[int]) -> None:
    with pytest.raises(ValueError, match=r"size does not match|no rank|cycle"):
        Topology("custom", 3, parents)
