"""Events: from every rank to every rank, in one order."""

from __future__ import annotations

import errno

import pytest

from pytest_flux.client import Flux
from pytest_flux.protocol.errors import FluxError
from tests.parity.instances import Running

WAIT = 10.0


def test_events_come_to_every_rank_in_one_order(three: Running) -> None:
    clients = [Flux(f"local://{three.rundir}/local-{rank}") for rank in range(3)]
    try:
        for client in clients:
            client.subscribe("parity.order")
        for number in range(30):
            clients[number % 3].send_event(f"parity.order.{number}", {"from": number % 3})
        received = [[client.event_recv(WAIT) for _ in range(30)] for client in clients]
        for messages in received:
            sequences = [message.sequence for message in messages]
            assert sequences == sorted(set(sequences))
            assert [message.topic for message in messages] == [message.topic for message in received[0]]
            assert [message.sequence for message in messages] == [message.sequence for message in received[0]]
        for rank in range(3):
            # What one client sends stays in its order.
            mine = [message.topic for message in received[0] if message.json() == {"from": rank}]
            assert mine == [f"parity.order.{number}" for number in range(rank, 30, 3)]
    finally:
        for client in clients:
            client.close()


def test_published_events_are_numbered(three: Running, flux: Flux) -> None:
    flux.subscribe("parity.number")
    with Flux(f"local://{three.rundir}/local-2") as other:
        first = other.publish("parity.number", {"a": 1})
        second = flux.publish("parity.number", b"\x00\xff")
        third = other.publish("parity.number")
    assert second == first + 1
    assert third == first + 2
    events = [flux.event_recv(WAIT) for _ in range(3)]
    assert [event.sequence for event in events] == [first, second, third]
    assert events[0].json() == {"a": 1}
    assert [event.payload for event in events[1:]] == [b"\x00\xff", None]


def test_publishing_has_rules(flux: Flux) -> None:
    for rank, flags in ((1, 0), (0, 1)):
        with pytest.raises(FluxError) as caught:
            flux.rpc("event.publish", {"topic": "a", "flags": flags}, nodeid=rank).get()
        assert caught.value.errnum == errno.EPROTO
        assert rank == 0 or caught.value.text == "this service is only available on rank 0"


def test_subscriptions_are_counted(flux: Flux) -> None:
    flux.subscribe("parity.count")
    flux.subscribe("parity.count")
    flux.unsubscribe("parity.count")
    flux.publish("parity.count.1")
    assert flux.event_recv(WAIT).topic == "parity.count.1"
    flux.unsubscribe("parity.count")
    with pytest.raises(FluxError) as caught:
        flux.unsubscribe("parity.count")
    assert caught.value.errnum == errno.ENOENT
    flux.subscribe("parity.end")
    flux.publish("parity.count.2")
    flux.publish("parity.end")
    assert flux.event_recv(WAIT).topic == "parity.end"


def test_two_subscriptions_deliver_once(flux: Flux) -> None:
    flux.subscribe("parity")
    flux.subscribe("parity.tw")
    flux.publish("parity.two")
    flux.publish("parity.last")
    assert [flux.event_recv(WAIT).topic for _ in range(2)] == ["parity.two", "parity.last"]


def test_empty_subscription_takes_all(flux: Flux) -> None:
    flux.subscribe("")
    flux.publish("any.thing")
    while flux.event_recv(WAIT).topic != "any.thing":
        pass


def test_private_events_are_the_owner_s(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-1") as other:
        other.subscribe("parity.private")
        flux.publish("parity.private", private=True)
        event = other.event_recv(WAIT)
        assert event.topic == "parity.private"
        assert event.flags & 0x20


def test_many_events_of_some_size(three: Running, flux: Flux) -> None:
    with Flux(f"local://{three.rundir}/local-2") as other:
        flux.subscribe("parity.bulk")
        for number in range(50):
            other.send_event("parity.bulk", {"number": number, "data": "x" * 100_000})
        assert [flux.event_recv(WAIT).json()["number"] for _ in range(50)] == list(range(50))
