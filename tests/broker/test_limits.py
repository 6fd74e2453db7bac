"""Short texts that stand for much are refused, with value and limit, before they are expanded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.broker.exec.options import ShellFailure
from pytest_flux.broker.exec.placement import place
from pytest_flux.broker.jobs.facts import job_facts
from pytest_flux.broker.jobs.match import compile_match
from pytest_flux.broker.resource.drain import decode_targets
from pytest_flux.client.jobspec import from_command
from pytest_flux.protocol.constraint import Node as ConstraintNode
from pytest_flux.protocol.constraint import compile_constraint, validate_constraint
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.hostlist import HostSet, decode_host_ranges, decode_hostlist
from pytest_flux.protocol.idset import decode_idset
from pytest_flux.protocol.limits import Budget, check_limit
from pytest_flux.protocol.resource_set import Node, ResourceSet, ids_of, lowest, mask_of, resources_from_config

_MANY_HOSTS = "x[1-1048576]"
_MEMORY = 24 << 20


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < _MEMORY
    finally:
        tracemalloc.stop()


def _resources(ranks: str, cores: str, hosts: str = "", copies: int = 1, **execution: Any) -> dict[str, Any]:  # noqa: ANN401
    lite = [{"rank": ranks, "children": {"core": cores}}] * copies
    return {"version": 1, "execution": {"R_lite": lite, "nodelist": [hosts] if hosts else [], **execution}}


def _nested(depth: int) -> dict[str, Any]:
    constraint: dict[str, Any] = {"ranks": ["0"]}
    for _ in range(depth):
        constraint = {"not": [constraint]}
    return constraint


_WIDE = {"or": [{"ranks": ["0"]}] * 300}


@pytest.mark.parametrize(
    ("decode", "text"),
    [
        (lambda: decode_idset("0-2147483647"), "ids in a set: 2147483648 exceeds the limit of 1048576"),
        (lambda: decode_hostlist(f"{_MANY_HOSTS},y[0-9]"), "hosts in a list: 1048586 exceeds the limit of 1048576"),
        (lambda: decode_hostlist("x[0-18446744073709551615]"), "hosts in a list: 18446744073709551616 exceeds"),
        (lambda: mask_of("0-65536"), "id of a resource: 65536 exceeds the limit of 65535"),
        (lambda: ResourceSet.decode(_resources("0-1048575", "0-65535")), "ids in a set: 1048576 exceeds the limit"),
        (lambda: ResourceSet.decode(_resources("0-16383", "0-65535")), "bits of resources in R: 1073741824 exceeds"),
        (lambda: ResourceSet.decode(_resources("0-16383", "", copies=99)), "ranks in R: 147456 exceeds the limit"),
        (lambda: ResourceSet.decode(_resources("0", "0", "x[1-9999999]")), "hosts in a list: 9999999 exceeds"),
        (
            lambda: resources_from_config([{"hosts": "x[1-16384]", "cores": "0-65535"}]),
            "bits of resources: 1073741824 exceeds",
        ),
        (lambda: validate_constraint(_nested(33)), "levels of a constraint: 33 exceeds the limit of 32"),
        (lambda: validate_constraint(_WIDE), "operators in a constraint: 257 exceeds the limit of 256"),
        (lambda: compile_match(_nested(33)), "levels of a constraint: 33 exceeds the limit of 32"),
        (lambda: compile_match(_WIDE), "operators in a constraint: 257 exceeds the limit of 256"),
        (lambda: compile_match({"hostlist": [_MANY_HOSTS] * 6}), "too many hosts specified"),
        (
            lambda: validate_constraint({"hostlist": [_MANY_HOSTS] * 6}, {"x1", "x2"}),
            "host constraint contains invalid hosts: host 'x3' not found",
        ),
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_refused(decode: Callable[[], object], text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode()
    assert text in str(caught.value)


@pytest.mark.usefixtures("little_memory")
def test_ranges_stay_ranges() -> None:
    matches = compile_constraint({"hostlist": [_MANY_HOSTS] * 6, "ranks": ["0-2147483646"] * 6})
    assert matches(ConstraintNode(7, "x1048576", ()))
    assert not matches(ConstraintNode(7, "x1048577", ()))
    assert not matches(ConstraintNode(7, "x01", ()))


@pytest.mark.parametrize("targets", ["0-1048575", "4294967295", _MANY_HOSTS])
@pytest.mark.usefixtures("little_memory")
def test_targets_of_drain(targets: str) -> None:
    with pytest.raises(FluxError):
        decode_targets(targets, ResourceSet({0: Node("x1", 1, 0)}), 1)


@pytest.mark.parametrize("count", [2**14 + 1, 2**30, 2**62])
@pytest.mark.parametrize("kind", ["total", "core", "node"])
@pytest.mark.usefixtures("little_memory")
def test_tasks(count: int, kind: str) -> None:
    spec = from_command(["true"])
    options: dict[str, Any] = {}
    if kind == "total":
        spec["tasks"][0]["count"] = {"total": count}
    else:
        options = {"per-resource": {"type": kind, "count": count}}
    resources = ResourceSet({rank: Node(f"x{rank}", 0b1111, 0) for rank in range(2)})
    with pytest.raises(ShellFailure, match=r"tasks of a job: [0-9]+ exceeds the limit of 16384"):
        place(spec, resources, options)


@pytest.mark.parametrize("value", ["1", "3", "1000000000000"])
def test_a_cyclic_task_map_is_compact(value: str) -> None:
    spec = from_command(["true"])
    spec["tasks"][0]["count"] = {"total": 2**14}
    resources = ResourceSet({rank: Node(f"x{rank}", 0b1111, 0) for rank in range(2)})
    placement = place(spec, resources, {"taskmap": {"scheme": "cyclic", "value": value}})
    assert placement.ntasks == 2**14
    assert len(placement.taskmap.blocks) <= 4


def test_numbers_that_no_client_could_read_are_left_out() -> None:
    spec = from_command(["true"], tasks=2)
    spec["resources"][0]["count"] = spec["resources"][0]["with"][0]["count"] = 2**62
    facts = job_facts(spec, None)
    assert (facts.ntasks, facts.ncores) == (None, None)


def test_a_very_long_number_is_described() -> None:
    with pytest.raises(ProtocolError, match=r"^x: a number of 10001 bits exceeds the limit of 3$"):
        check_limit("x", 1 << 10000, 3)
    budget = Budget("x", 3)
    budget.spend(3)
    with pytest.raises(ProtocolError, match=r"^x: 4 exceeds the limit of 3$"):
        budget.spend()


_RANGES = st.tuples(st.sampled_from(["a", "a0", "b"]), st.integers(0, 120), st.integers(0, 200), st.booleans())


@given(st.lists(_RANGES, max_size=4))
def test_a_set_of_hosts_has_the_names_of_the_list(ranges: list[tuple[str, int, int, bool]]) -> None:
    text = ",".join(
        f"{prefix}[{first:0{3 if padded else 1}}-{first + more}]{'-ib' if padded else ''}"
        for prefix, first, more, padded in ranges
    )
    names = set(decode_hostlist(text))
    hosts = HostSet(decode_host_ranges(text))
    probes = {f"{prefix}{number}" for prefix in ("a", "a0", "b") for number in range(330)}
    for name in names | probes | {f"{probe}-ib" for probe in probes}:
        assert (name in hosts) == (name in names)
    assert hosts.first_unknown(names) is None


@given(st.integers(0, 2**70), st.integers(0, 80))
def test_masks(mask: int, count: int) -> None:
    ids = [number for number in range(71) if mask >> number & 1]
    assert ids_of(mask) == ids
    assert ids_of(lowest(mask, count)) == ids[:count]
