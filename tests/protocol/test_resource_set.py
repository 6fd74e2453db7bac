"""R version 1: reading, writing, and sets of resources."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.limits import MAX_CORES
from pytest_flux.protocol.resource_set import (
    Node,
    ResourceSet,
    ids_of,
    lowest,
    mask_of,
    resources_from_config,
    text_of,
)

RECORDED: dict[str, Any] = {
    "version": 1,
    "execution": {
        "R_lite": [{"rank": "0-1", "children": {"core": "0-1"}}],
        "starttime": 1795345551.7501032,
        "expiration": 0.0,
        "nslots": 4,
        "nodelist": ["vm,vm"],
    },
}

_nodes = st.builds(
    Node, hostname=st.sampled_from(["a", "b1", "b2"]), cores=st.integers(1, 255), gpus=st.integers(0, 7)
)
sets = st.builds(
    lambda nodes, ranks: ResourceSet(nodes, {"fast": frozenset(ranks)} if ranks & nodes.keys() else {}),
    st.dictionaries(st.integers(0, 12), _nodes, max_size=6),
    st.frozensets(st.integers(0, 12), max_size=4),
)


def test_a_recorded_one_is_written_as_it_was_read() -> None:
    assert json.dumps(ResourceSet.decode(RECORDED).encode()) == json.dumps(RECORDED)


def test_the_empty_set_is_what_flux_core_writes() -> None:
    empty = {"version": 1, "execution": {"R_lite": [], "starttime": 0.0, "expiration": 0.0, "nodelist": [""]}}
    assert ResourceSet().encode() == empty
    assert ResourceSet.decode(empty) == ResourceSet()


def test_summaries_are_those_of_annotations() -> None:
    assert ResourceSet.decode(RECORDED).summary() == "rank[0-1]/core[0-1]"
    assert ResourceSet({3: Node("a", 1, 2), 4: Node("b", 7, 0)}).summary() == "rank3/core0,gpu1 rank4/core[0-2]"


def test_ranks_without_a_nodelist_have_names_of_their_own() -> None:
    value = {"version": 1, "execution": {"R_lite": [{"rank": "4", "children": {"core": "0"}}]}}
    assert ResourceSet.decode(value).hosts == ["rank4"]


@given(sets)
def test_round_trip(resources: ResourceSet) -> None:
    resources = resources.replace(starttime=1.5, expiration=2.5)
    again = ResourceSet.decode(json.loads(json.dumps(resources.encode())))
    assert again == resources
    assert (again.starttime, again.expiration) == (1.5, 2.5)


@given(sets, sets)
def test_operations_are_those_of_sets(first: ResourceSet, second: ResourceSet) -> None:
    def cores(resources: ResourceSet) -> set[tuple[int, int]]:
        return {(rank, core) for rank in resources for core in ids_of(resources.nodes[rank].cores)}

    def gpus(resources: ResourceSet) -> set[tuple[int, int]]:
        return {(rank, gpu) for rank in resources for gpu in ids_of(resources.nodes[rank].gpus)}

    for of in (cores, gpus):
        assert of(first.union(second)) == of(first) | of(second)
        assert of(first.subtract(second)) == of(first) - of(second)
        assert of(first.intersect(second)) == of(first) & of(second)
    assert first.count("core") == len(cores(first))
    assert first.count("gpu") == len(gpus(first))
    assert set(first.select(second)) | set(first.without(second)) == set(first)


@given(st.sets(st.integers(0, 300)))
def test_masks(ids: set[int]) -> None:
    mask = sum(1 << number for number in ids)
    assert ids_of(mask) == sorted(ids)
    assert mask_of(text_of(mask)) == mask
    assert ids_of(lowest(mask, len(ids) // 2)) == sorted(ids)[: len(ids) // 2]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r.pop("version"), "version"),
        (lambda r: r.update(version=2), "invalid version=2"),
        (lambda r: r.pop("execution"), "execution"),
        (lambda r: r["execution"].pop("R_lite"), "R_lite"),
        (lambda r: r["execution"].update(R_lite=[7]), r"R_lite\[0\]"),
        (lambda r: r["execution"]["R_lite"][0].update(rank=0), r"R_lite\[0\].rank"),
        (lambda r: r["execution"]["R_lite"][0].update(children={"core": 1}), "children.core"),
        (lambda r: r["execution"]["R_lite"].append(r["execution"]["R_lite"][0]), "listed twice"),
        (lambda r: r["execution"].update(nodelist=["a"]), "number of nodes"),
        (lambda r: r["execution"].update(expiration="soon"), "expiration"),
        (lambda r: r["execution"].update(nslots="4"), "nslots"),
        (lambda r: r["execution"].update(properties={"a|b": "0"}), "invalid character"),
        (lambda r: r["execution"].update(properties={"a": "7"}), "not found in target list"),
        (
            lambda r: r["execution"]["R_lite"][0]["children"].update(core=f"0-{MAX_CORES}"),
            "exceeds the limit of 65535",
        ),
    ],
)
def test_malformed(change: Any, complaint: str) -> None:  # noqa: ANN401
    value = json.loads(json.dumps(RECORDED))
    change(value)
    with pytest.raises(ProtocolError, match=complaint):
        ResourceSet.decode(value)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0-1", "9"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "version",
                    "execution",
                    "R_lite",
                    "rank",
                    "children",
                    "core",
                    "gpu",
                    "nodelist",
                    "properties",
                    "nslots",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(_json)
def test_garbage_is_refused_in_our_terms(value: object) -> None:
    try:
        ResourceSet.decode(value)
    except ProtocolError:
        pass


def test_configuration() -> None:
    resources = resources_from_config(
        [{"hosts": "a[0-2]", "cores": "0-3"}, {"hosts": "a[1-2]", "gpus": "0", "properties": ["fast"]}]
    )
    assert resources.summary() == "rank0/core[0-3] rank[1-2]/core[0-3],gpu0"
    assert resources.nodelist == "a[0-2]"
    assert resources.properties == {"fast": frozenset((1, 2))}


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({}, "must be an array"),
        ([], "no hosts configured"),
        ([{"hosts": ""}], "empty hostlist"),
        ([{"hosts": "a"}], "a assigned no resources"),
        ([{"hosts": "a", "cores": "x"}], "invalid idset cores='x'"),
        ([{"hosts": "a", "cores": "0", "memory": 3}], "1 object item"),
        ([{"hosts": "a", "cores": "0", "properties": ["x!"]}], "invalid property"),
    ],
)
def test_malformed_configuration(entries: object, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        resources_from_config(entries)
