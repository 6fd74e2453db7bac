"""Barriers of PMI 1.1 and 1.2, through the server."""

from __future__ import annotations

import pytest

from pytest_flux.protocol.pmi_barrier import GROUPS_MAX, Barriers
from pytest_flux.protocol.pmi_server import ClientError, PmiServer
from tests.protocol.test_pmi_server import said

BARRIER = b"cmd=barrier_in\n"
OUT = "cmd=barrier_out rc=0"


def server_of(size: int, subversion: int = 2) -> PmiServer:
    """A server whose clients have all asked for PMI 1.``subversion``."""
    server = PmiServer(size)
    for rank in range(size):
        server.receive(rank, b"cmd=init pmi_version=1 pmi_subversion=%d\n" % subversion)
    return server


def enter(server: PmiServer, rank: int, group: str) -> list[str]:
    return said(server.receive(rank, f"cmd=barrier_in group={group}\n".encode()))


def test_all_go_on_once_all_have_come() -> None:
    server = PmiServer(3)
    for _ in range(2):
        assert server.receive(2, BARRIER) == []
        assert server.receive(0, BARRIER) == []
        assert said(server.receive(1, BARRIER)) == [f"{rank} {OUT}" for rank in range(3)]


def test_the_local_clients_make_the_barrier() -> None:
    server = PmiServer(100, local_size=2)
    assert server.receive(41, BARRIER) == []
    assert said(server.receive(40, BARRIER)) == [f"40 {OUT}", f"41 {OUT}"]


def test_flux_core_counts_lines_not_clients() -> None:
    """It releases whoever it has ever heard of, and nobody else."""
    server = PmiServer(2)
    server.receive(1, b"cmd=get_appnum\n")
    assert said(server.receive(0, BARRIER + BARRIER)) == [f"0 {OUT}", f"1 {OUT}"]


def test_a_client_that_is_gone_neither_counts_nor_is_answered() -> None:
    server = PmiServer(3)
    server.receive(0, BARRIER)
    server.receive(1, b"cmd=finalize\n")
    server.receive(2, BARRIER)
    server.disconnect(2)
    assert server.receive(2, BARRIER) == []
    assert said(server.receive(2, BARRIER)) == [f"0 {OUT}", f"2 {OUT}"]


def test_a_process_started_again_repeats_what_is_over() -> None:
    server = PmiServer(2)
    for _ in range(2):
        server.receive(0, BARRIER)
        server.receive(1, BARRIER)
    server.disconnect(1)
    assert said(server.receive(1, BARRIER)) == [f"1 {OUT}"]
    assert said(server.receive(1, BARRIER)) == [f"1 {OUT}"]
    assert server.receive(1, BARRIER) == []
    assert said(server.receive(0, BARRIER)) == [f"0 {OUT}", f"1 {OUT}"]


def test_a_client_that_broke_the_protocol_is_gone() -> None:
    server = PmiServer(2)
    server.receive(0, BARRIER)
    with pytest.raises(ClientError):
        server.receive(0, b"garbage\n")
    assert server.receive(1, BARRIER) == []
    assert said(server.receive(1, BARRIER)) == [f"1 {OUT}"]


def test_pmi_1_1_knows_no_groups() -> None:
    """flux-core ignores the word."""
    server = server_of(2, subversion=1)
    assert enter(server, 0, "0:5") == []
    assert enter(server, 1, "what ever") == [f"0 {OUT}", f"1 {OUT}"]


def test_pmi_1_2_has_tags() -> None:
    server = server_of(2)
    server.receive(0, BARRIER)
    assert said(server.receive(1, BARRIER)) == [f"0 {OUT} tag=0", f"1 {OUT} tag=0"]


@pytest.mark.parametrize("group", ["WORLD:77", "NODE:77", "0,1,2:77"])
def test_a_group_of_all(group: str) -> None:
    server = server_of(3)
    assert enter(server, 1, group) == []
    assert enter(server, 0, group) == []
    assert enter(server, 2, group) == [f"{rank} {OUT} tag=77" for rank in range(3)]


def test_groups_are_apart_from_each_other_and_from_the_barrier_of_all() -> None:
    server = server_of(3)
    assert enter(server, 0, "0,2:1") == []
    assert enter(server, 2, "0,2:2") == []
    assert enter(server, 0, "0:3") == [f"0 {OUT} tag=3"]
    assert server.receive(0, BARRIER) == []
    assert enter(server, 2, "0,2:1") == [f"0 {OUT} tag=1", f"2 {OUT} tag=1"]
    assert enter(server, 0, "0,2:2") == [f"0 {OUT} tag=2", f"2 {OUT} tag=2"]


def test_two_threads_may_wait_for_the_same_group() -> None:
    server = server_of(2)
    assert enter(server, 0, "0,1") == []
    assert enter(server, 0, "0,1") == []
    for _ in range(2):
        assert enter(server, 1, "0,1") == [f"0 {OUT} tag=0", f"1 {OUT} tag=0"]


def test_who_is_gone_waits_in_no_group() -> None:
    server = server_of(3)
    enter(server, 0, "0,1")
    enter(server, 0, "0,2")
    enter(server, 2, "0,2")  # completes
    server.disconnect(0)
    assert enter(server, 1, "0,1") == []
    server.receive(0, b"cmd=init pmi_version=1 pmi_subversion=2\n")
    assert enter(server, 0, "0,1") == [f"0 {OUT} tag=0", f"1 {OUT} tag=0"]


@pytest.mark.parametrize(
    "group", ["", "1,2", "0,9", "0,-1", "0,x", "0,", ",", "ALL", "0:", "0:x", "0:1:1", "0:99999999999"]
)
def test_groups_that_rank_0_cannot_enter(group: str) -> None:
    with pytest.raises(ClientError):
        enter(server_of(3), 0, group)


def test_nothing_is_kept_of_groups_that_nobody_waits_for() -> None:
    barriers = Barriers(3, 3)
    for rank in (0, 1):
        barriers.join(rank)
        barriers.enter_group(rank, "0,1:7")
    barriers.enter_group(0, "0,2:8")
    barriers.leave(0)
    assert barriers._groups == {}


def test_the_number_of_barriers_is_bounded() -> None:
    server = server_of(2)
    for tag in range(GROUPS_MAX):
        assert enter(server, 0, f"WORLD:{tag}") == []
    assert enter(server, 1, "WORLD:5") == [f"0 {OUT} tag=5", f"1 {OUT} tag=5"]
    assert enter(server, 0, "WORLD:5") == []
    with pytest.raises(ClientError):
        enter(server, 0, "WORLD:5")
