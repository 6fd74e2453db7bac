"""The router alone: which way messages go, and what happens if there is no way."""

from __future__ import annotations

import errno

import pytest

from pytest_flux.broker.overlay.topology import Topology
from pytest_flux.broker.router import Router
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import (
    EVENT,
    FLAG_NORESPONSE,
    FLAG_STREAMING,
    FLAG_UPSTREAM,
    NODEID_ANY,
    REQUEST,
    ROLE_OWNER,
    Message,
    encode_json,
)

CLIENT = "client"


class Hub:
    """A router of an instance of seven brokers in a binary tree, with all its neighbours and one client."""

    def __init__(self, rank: int = 1) -> None:
        topology = Topology("kary:2", 7)
        self.router = Router(f"broker{rank}", rank, topology)
        self.sent: dict[int, list[Message]] = {}
        self.answers: list[Message] = []
        neighbours = topology.children(rank) if rank == 0 else [(rank - 1) // 2, *topology.children(rank)]
        for neighbour in neighbours:
            inbox = self.sent[neighbour] = []
            self.router.peers[neighbour] = inbox.append
        self.router.routes[CLIENT] = self.answers.append

    def request(self, topic: str, nodeid: int = NODEID_ANY, flags: int = 0) -> None:
        self.router.request(
            Message(REQUEST, topic, flags=flags, userid=1, rolemask=ROLE_OWNER, aux1=nodeid, aux2=7, routes=[CLIENT])
        )

    def where(self) -> list[int]:
        """The neighbours that have got something."""
        return [rank for rank, inbox in self.sent.items() if inbox]

    def refusals(self) -> list[tuple[int, str | None]]:
        return [(message.errnum, message.text()) for message in self.answers]


def test_a_local_service_comes_first() -> None:
    hub, got = Hub(), list[Message]()
    hub.router.add_service("kvs", got.append)
    hub.request("kvs.lookup")
    assert [message.topic for message in got] == ["kvs.lookup"]
    assert hub.where() == []


def test_without_a_local_service_a_request_goes_up() -> None:
    hub = Hub(rank=1)
    hub.request("kvs.lookup")
    assert hub.where() == [0]
    assert hub.sent[0][0].routes == [CLIENT]


def test_upstream_passes_by_the_local_service() -> None:
    hub, got = Hub(rank=1), list[Message]()
    hub.router.add_service("kvs", got.append)
    hub.request("kvs.lookup", nodeid=1, flags=FLAG_UPSTREAM)
    assert (got, hub.where()) == ([], [0])


@pytest.mark.parametrize(("target", "hop"), [(3, 3), (4, 4), (0, 0), (2, 0), (5, 0), (6, 0)])
def test_a_rank_is_reached_through_the_tree(target: int, hop: int) -> None:
    hub = Hub(rank=1)
    hub.request("broker.ping", nodeid=target)
    assert hub.where() == [hop]


def test_a_service_that_nobody_has() -> None:
    hub = Hub(rank=0)
    hub.request("nothing.here")
    hub.request("nothing.there", nodeid=0)
    assert hub.refusals() == [
        (errno.ENOSYS, "No service matching nothing.here is registered"),
        (errno.ENOSYS, "No service matching nothing.there is registered"),
    ]


def test_above_rank_0_is_nobody() -> None:
    hub = Hub(rank=0)
    hub.request("kvs.lookup", nodeid=0, flags=FLAG_UPSTREAM)
    assert hub.refusals() == [(errno.EHOSTUNREACH, None)]


@pytest.mark.parametrize("target", [3, 4, 0, 2, 7, 1000])
def test_a_rank_out_of_reach(target: int) -> None:
    hub = Hub(rank=1)
    hub.router.peers.clear()
    hub.request("broker.ping", nodeid=target)
    assert hub.refusals() == [(errno.EHOSTUNREACH, None)]


def test_who_wants_no_answer_gets_none() -> None:
    hub = Hub(rank=0)
    hub.request("nothing.here", flags=FLAG_NORESPONSE)
    assert hub.answers == []


def test_an_answer_goes_back_hop_by_hop() -> None:
    hub = Hub(rank=1)
    response = Message(REQUEST, "a.b", routes=[CLIENT, "broker3"]).response()
    got: list[Message] = []
    hub.router.routes["broker3"] = got.append
    hub.router.respond(response)
    assert [message.routes for message in got] == [[CLIENT]]
    hub.router.respond(got[0])
    assert [message.routes for message in hub.answers] == [[]]


def test_an_answer_for_nobody_is_dropped() -> None:
    hub = Hub()
    hub.router.respond(Message(REQUEST, "a.b", routes=["gone"]).response())
    hub.router.respond(Message(REQUEST, "a.b", routes=[]).response())
    assert hub.answers == []


def test_calls_get_their_own_answers() -> None:
    hub, asked, got = Hub(), list[Message](), list[tuple[str, object]]()
    hub.router.add_service("echo", asked.append)
    hub.router.rpc("echo.one", {"n": 1}, lambda message: got.append(("one", message.json())))
    hub.router.rpc("echo.two", {"n": 2}, lambda message: got.append(("two", message.json())))
    for request in reversed(asked):
        hub.router.respond(request.response(encode_json(request.json())))
    assert got == [("two", {"n": 2}), ("one", {"n": 1})]


def test_a_streaming_call_gets_answers_until_an_error() -> None:
    hub, asked, got = Hub(), list[Message](), list[int]()
    hub.router.add_service("echo", asked.append)
    hub.router.rpc("echo.stream", None, lambda message: got.append(message.errnum), streaming=True)
    request = asked[0]
    assert request.flags & FLAG_STREAMING
    for errnum in (0, 0, errno.ENODATA, 0):
        hub.router.respond(request.response(None, errnum))
    assert got == [0, 0, errno.ENODATA]


def test_a_call_that_gets_one_answer_hears_no_second() -> None:
    hub, asked, got = Hub(), list[Message](), list[int]()
    hub.router.add_service("echo", asked.append)
    hub.router.rpc("echo.once", None, lambda message: got.append(message.errnum))
    for _ in range(2):
        hub.router.respond(asked[0].response())
    assert got == [0]


def test_a_name_is_taken_once() -> None:
    hub = Hub()
    hub.router.add_service("kvs", hub.answers.append)
    with pytest.raises(FluxError) as caught:
        hub.router.add_service("kvs", hub.answers.append)
    assert caught.value.errnum == errno.EEXIST


def test_events_are_numbered_on_rank_0_and_go_to_all_children() -> None:
    hub = Hub(rank=0)
    for topic in ("a", "b"):
        hub.router.publish(topic)
    for rank in (1, 2):
        assert [(event.topic, event.sequence) for event in hub.sent[rank]] == [("a", 1), ("b", 2)]


def test_the_number_of_events_wraps_around_but_is_never_0() -> None:
    hub = Hub(rank=0)
    hub.router._sequence = 0xFFFFFFFE
    assert [hub.router.send_event(Message(EVENT, "a")) for _ in range(3)] == [0xFFFFFFFF, 1, 2]


def test_events_of_others_go_up_first() -> None:
    hub, got = Hub(rank=1), list[Message]()
    hub.router.subscribe("", got.append)
    assert hub.router.send_event(Message(EVENT, "a")) == 0
    assert (hub.where(), got) == ([0], [])


def test_events_from_above_go_down_and_to_subscribers() -> None:
    hub, by_prefix, all_of_them = Hub(rank=1), list[str | None](), list[str | None]()
    hub.router.subscribe("job-", lambda event: by_prefix.append(event.topic))
    hub.router.on_event.append(lambda event: all_of_them.append(event.topic))
    for topic in ("job-state", "kvs.setroot"):
        hub.router.receive_event(Message(EVENT, topic, aux1=5))
    assert hub.where() == [3, 4]
    assert by_prefix == ["job-state"]
    assert all_of_them == ["job-state", "kvs.setroot"]
