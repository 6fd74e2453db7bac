"""The launcher's side of PMI connections."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

import pytest

from pytest_flux.launcher.pmi_server import PmiService, process_mapping
from pytest_flux.reactor.reactor import Reactor
from tests.launcher.sessions import DEADLINE


class Service:
    """A service with its clients' sockets, and what it has called back with."""

    def __init__(self, size: int, clique: str = "single") -> None:
        self.reactor = Reactor()
        self.aborts: list[tuple[int, str]] = []
        self.faults: list[str] = []
        self.finalized: list[int] = []
        self.pmi = PmiService(
            self.reactor,
            size,
            clique,
            lambda rank, text: self.aborts.append((rank, text)),
            self.faults.append,
            self.finalized.append,
        )
        self.clients = [self.connect(rank) for rank in range(size)]

    def connect(self, rank: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(DEADLINE)
        self.pmi.serve(rank, ours)
        return theirs

    def work(self) -> None:
        """Let the service do all that there is to do now."""
        self.reactor.call_later(0.001, self.reactor.stop)
        self.reactor.run()

    def close(self) -> None:
        self.pmi.close()
        self.reactor.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def pair() -> Iterator[Service]:
    service = Service(2)
    yield service
    service.close()


@pytest.fixture
def thousand() -> Iterator[Service]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    service = Service(1000)
    yield service
    service.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("clique", "mapping"),
    [
        ("single", "(vector,(0,1,4))"),
        ("per-broker", "(vector,(0,4,1))"),
        ("none", ""),
        ("[[0,2,2,1]]", "(vector,(0,2,2))"),
        ("0-1;2-3", "(vector,(0,2,2))"),
    ],
)
def test_process_mapping(clique: str, mapping: str) -> None:
    assert process_mapping(clique, 4) == mapping


def test_requests_are_answered_to_whom_they_came_from(pair: Service) -> None:
    pair.clients[0].sendall(b"cmd=get_uni")
    pair.clients[1].sendall(b"cmd=get_appnum\ncmd=get kvsname=- key=PMI_process_mapping\n")
    pair.work()
    pair.clients[0].sendall(b"verse_size\n")
    pair.work()
    assert pair.clients[0].recv(4096) == b"cmd=universe_size rc=0 size=2\n"
    assert pair.clients[1].recv(4096) == b"cmd=appnum rc=0 appnum=0\ncmd=get_result rc=0 value=(vector,(0,1,2))\n"


def test_connection_is_closed_after_finalize(pair: Service) -> None:
    pair.clients[0].sendall(b"cmd=finalize\n")
    pair.work()
    assert pair.clients[0].recv(4096) == b"cmd=finalize_ack rc=0\n"
    assert pair.clients[0].recv(4096) == b""
    assert pair.finalized == [0]


def test_abort_is_passed_on(pair: Service) -> None:
    pair.clients[1].sendall(b"cmd=abort exitcode=1 error_msg=no more\n")
    pair.work()
    assert pair.aborts == [(1, "no more")]


def test_abort_is_heard_from_a_broker_that_has_ended(pair: Service) -> None:
    pair.clients[1].sendall(b"cmd=abort exitcode=1\n")
    pair.clients[1].close()
    pair.pmi.finish(1)
    assert pair.aborts == [(1, "aborted")]


def test_fault_is_reported_after_what_came_before_it(pair: Service) -> None:
    pair.clients[0].sendall(b"cmd=get_appnum\nnonsense\n")
    pair.work()
    assert pair.clients[0].recv(4096) == b"cmd=appnum rc=0 appnum=0\n"
    assert pair.faults == ["pmi_simple_server_request: Protocol error"]


def test_rank_that_is_started_again_gets_a_new_connection(pair: Service) -> None:
    pair.clients[1].sendall(b"cmd=barrier_in\ncmd=put kvsn")
    pair.work()
    again = pair.connect(1)
    assert pair.clients[1].recv(4096) == b""
    # Neither the unfinished line nor the barrier of the one before is its own.
    again.sendall(b"cmd=get_appnum\n")
    pair.clients[0].sendall(b"cmd=barrier_in\n")
    pair.work()
    assert again.recv(4096) == b"cmd=appnum rc=0 appnum=0\n"
    again.sendall(b"cmd=barrier_in\n")
    pair.work()
    for client in (again, pair.clients[0]):
        assert client.recv(4096) == b"cmd=barrier_out rc=0\n"
    again.close()


def test_thousand_clients_meet_in_a_barrier(thousand: Service) -> None:
    service = thousand
    for rank, client in enumerate(service.clients):
        client.sendall(b"cmd=put kvsname=- key=%d value=v%d\ncmd=barrier_in\n" % (rank, rank))
    service.work()
    for rank, client in enumerate(service.clients):
        assert client.recv(4096) == b"cmd=put_result rc=0\ncmd=barrier_out rc=0\n"
        client.sendall(b"cmd=get kvsname=- key=%d\n" % (999 - rank))
    service.work()
    for rank, client in enumerate(service.clients):
        assert client.recv(4096) == b"cmd=get_result rc=0 value=v%d\n" % (999 - rank)
