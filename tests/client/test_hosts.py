"""Ranks to hosts and back."""

from __future__ import annotations

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.hosts import HostMap

HOSTS = HostMap(["node0", "node1", "node2", "login", "node1"])


@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("1", "node1"),
        ("0-2", "node[0-2]"),
        ("2-3", "node2,login"),
        ("node[1-2]", "1-2"),
        ("login,node0", "0,3"),
        ("", ""),
    ],
)
def test_lookup(target: str, result: str) -> None:
    assert HOSTS.lookup(target) == result


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("9", "rank 9 is not in host map"),
        ("nosuch", "host nosuch not found in host map"),
        ("[[", "target must be a valid idset or hostlist"),
    ],
)
def test_lookup_of_what_is_not_there(target: str, complaint: str) -> None:
    with pytest.raises(LookupError, match=complaint):
        HOSTS.lookup(target)


def test_one_host_or_rank() -> None:
    assert HOSTS.rank_of("node1") == 1
    assert HOSTS.rank_of("nosuch") is None
    assert HOSTS.host_of(4) == "node1"
    assert HOSTS.host_of(5) is None
    assert HOSTS.host_of(-1) is None


def test_of_an_instance(flux: Flux) -> None:
    assert HostMap.of(flux).hosts == ["node0", "node1", "node2", "node3"]
