"""Choosing resources: worst fit, and never what is not free."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol.resource_pool import Infeasible, Need, ResourcePool
from pytest_flux.protocol.resource_set import Node, ResourceSet


def _pool(*nodes: tuple[int, int]) -> ResourcePool:
    """Ranks with so many cores and gpus."""
    return ResourcePool(
        ResourceSet(
            {rank: Node(f"n{rank}", (1 << cores) - 1, (1 << gpus) - 1) for rank, (cores, gpus) in enumerate(nodes)}
        )
    )


def _take(pool: ResourcePool, need: Need) -> str:
    found = pool.find(need)
    if found is None:
        return ""
    pool.take(found)
    return found.summary()


def test_slots_go_to_the_emptiest_node_and_stay_together() -> None:
    pool = _pool((2, 0), (2, 0))
    assert _take(pool, Need(0, 1, 1)) == "rank0/core0"
    assert _take(pool, Need(0, 2, 1)) == "rank1/core[0-1]"
    assert _take(pool, Need(0, 1, 1)) == "rank0/core1"
    assert _take(pool, Need(0, 1, 1)) == ""


def test_nodes_get_their_share_each() -> None:
    # As recorded for -N2 -n4 on two nodes of two cores.
    found = _pool((2, 0), (2, 0)).find(Need(2, 4, 1))
    assert found is not None
    assert found.summary() == "rank[0-1]/core[0-1]"
    assert found.nslots == 4


def test_exclusive_takes_all_there_is() -> None:
    pool = _pool((4, 1), (4, 0))
    assert _take(pool, Need(0, 1, 1, exclusive=True)) == "rank0/core[0-3],gpu0"
    assert _take(pool, Need(0, 1, 1)) == "rank1/core0"
    assert _take(pool, Need(1, 1, 1, exclusive=True)) == ""


def test_gpus() -> None:
    pool = _pool((8, 0), (4, 2))
    assert _take(pool, Need(0, 2, 1, 1)) == "rank1/core[0-1],gpu[0-1]"
    assert _take(pool, Need(0, 1, 1, 1)) == ""


def test_what_is_down_is_not_chosen() -> None:
    pool = _pool((2, 0), (2, 0))
    pool.mark_down([0, 7])
    assert _take(pool, Need(0, 1, 1)) == "rank1/core0"
    assert _take(pool, Need(2, 2, 1)) == ""
    assert pool.down().ranks == "0"
    pool.mark_up([0])
    assert _take(pool, Need(2, 2, 1)) == "rank0/core0 rank1/core1"


def test_what_was_taken_while_down_is_free_afterwards() -> None:
    pool = _pool((2, 0))
    found = pool.find(Need(0, 2, 1))
    assert found is not None
    pool.take(found)
    pool.mark_down([0])
    pool.give_back(found)
    assert _take(pool, Need(0, 1, 1)) == ""
    pool.mark_up([0])
    assert _take(pool, Need(0, 2, 1)) == "rank0/core[0-1]"


def test_constraints() -> None:
    found = _pool((8, 0), (2, 0)).find(Need(0, 1, 1), lambda rank: rank == 1)
    assert found is not None
    assert found.ranks == "1"


@pytest.mark.parametrize(
    ("need", "text"),
    [
        (Need(3, 3, 1), "need 3 node(s) with 1 cores each, only 2 eligible"),
        (Need(1, 3, 1), "need 1 node(s) with 3 cores each, only 0 eligible"),
        (Need(1, 1, 1, 1), "need 1 node(s) with 1 cores and 1 GPUs each, only 0 eligible"),
        (Need(0, 5, 1), "need 5 slot(s) of 1 core(s), only 4 such slot(s) available (total cores: 4)"),
        (Need(0, 1, 3), "need 1 slot(s) of 3 core(s), only 0 such slot(s) available (total cores: 4)"),
        (Need(0, 1, 1, 1), "need 1 slot(s) with 1 GPU(s) each, only 0 available (total GPUs: 0)"),
        (Need(0, 3, 1, exclusive=True), "need 3 exclusive node(s), only 2 eligible"),
    ],
)
def test_what_can_never_be_had(need: Need, text: str) -> None:
    with pytest.raises(Infeasible) as caught:
        _pool((2, 0), (2, 0)).check(need)
    assert str(caught.value) == f"unsatisfiable request: {text}"


def test_a_pool_that_shrinks_knows_what_can_never_be_had() -> None:
    pool = _pool((2, 0), (2, 0))
    pool.shrink([1])
    with pytest.raises(Infeasible):
        pool.check(Need(2, 2, 1))
    assert _take(pool, Need(1, 2, 1)) == "rank0/core[0-1]"


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.booleans()),
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_nothing_is_given_twice(
    nodes: list[tuple[int, int]], wishes: list[tuple[int, int, int, int, bool]], chance: object
) -> None:
    pool = _pool(*nodes)
    everything = pool.resources
    held: list[ResourceSet] = []
    for number, (nnodes, slots, cores, gpus, exclusive) in enumerate(wishes):
        need = Need(nnodes, slots * max(nnodes, 1), cores, gpus, exclusive)
        try:
            pool.check(need)
        except Infeasible:
            continue
        found = pool.find(need)
        if found is None:
            if held:
                pool.give_back(held.pop(number % len(held)))
            continue
        for other in held:
            assert not len(found.intersect(other))
        assert found.intersect(everything) == found
        if not exclusive:
            assert found.count("core") == need.nslots * cores
            assert found.count("gpu") == need.nslots * gpus
        pool.take(found)
        held.append(found)
        assert pool.allocated().count("core") == sum(each.count("core") for each in held)
    for each in held:
        pool.give_back(each)
    assert not len(pool.allocated())


def test_thousands_of_ranks_cost_little() -> None:
    pool = _pool(*[(64, 4)] * 4096)
    begun = time.perf_counter()
    for _ in range(2000):
        assert _take(pool, Need(0, 1, 1))
    # A scan of all ranks for each job would take several seconds.
    assert time.perf_counter() - begun < 2.0
