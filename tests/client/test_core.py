"""The client's half of the protocol, without a socket."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.client.core import NODEID_UPSTREAM, Call, ClientCore
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.framing import FrameDecoder, encode_frame
from pytest_flux.protocol.message import (
    EVENT,
    FLAG_NORESPONSE,
    FLAG_PRIVATE,
    FLAG_STREAMING,
    FLAG_UPSTREAM,
    NODEID_ANY,
    REQUEST,
    RESPONSE,
    Message,
)


def open_core() -> ClientCore:
    core = ClientCore()
    assert core.feed(b"\0") == []
    return core


def begin(core: ClientCore, topic: str = "a.b", *, streaming: bool = False) -> Call:
    call = Call(topic, streaming=streaming)
    core.begin(call, None)
    return call


def take_output(core: ClientCore) -> list[Message]:
    messages = FrameDecoder().feed(bytes(core.output))
    core.output.clear()
    return messages


def response(matchtag: int, payload: bytes | None = None, errnum: int = 0) -> bytes:
    return encode_frame(Message(RESPONSE, "a.b", payload, aux1=errnum, aux2=matchtag, routes=[]))


def test_nothing_is_ready_before_the_greeting() -> None:
    core = ClientCore()
    assert not core.ready
    assert core.feed(b"") == []
    assert not core.ready
    core.feed(b"\0")
    assert core.ready


def test_greeting_and_first_message_may_come_together() -> None:
    core = ClientCore()
    core.feed(b"\0" + encode_frame(Message(EVENT, "hello", routes=[])))
    assert [event.topic for event in core.events] == ["hello"]


def test_refusal_carries_the_errno() -> None:
    with pytest.raises(PermissionError) as caught:
        ClientCore().feed(bytes([errno.EPERM]))
    assert caught.value.errno == errno.EPERM


def test_request_on_the_wire() -> None:
    core = open_core()
    core.begin(Call("attr.get", 3), b'{"name":"rank"}\0')
    (request,) = take_output(core)
    assert (request.type, request.topic, request.payload) == (REQUEST, "attr.get", b'{"name":"rank"}\0')
    assert (request.nodeid, request.matchtag, request.routes) == (3, 1, [])


def test_upstream_is_a_flag_and_the_own_rank() -> None:
    core = open_core()
    core.begin(Call("a.b", NODEID_UPSTREAM), None, own_rank=7)
    (request,) = take_output(core)
    assert request.nodeid == 7
    assert request.flags & FLAG_UPSTREAM


def test_post_wants_no_response() -> None:
    core = open_core()
    core.post("log.append", b"text")
    (request,) = take_output(core)
    assert request.flags & FLAG_NORESPONSE
    assert (request.matchtag, request.nodeid) == (0, NODEID_ANY)


def test_matchtags_are_the_smallest_free_ones() -> None:
    core = open_core()
    calls = [begin(core) for _ in range(4)]
    assert [call.matchtag for call in calls] == [1, 2, 3, 4]
    core.feed(response(3) + response(1))
    assert [begin(core).matchtag for _ in range(3)] == [1, 3, 5]


def test_responses_find_their_calls_in_any_order() -> None:
    core = open_core()
    first, second = begin(core), begin(core)
    assert core.feed(response(2, b"two") + response(1, b"one")) == [second, first]
    assert first.responses.popleft().payload == b"one"
    assert second.responses.popleft().payload == b"two"
    assert first.finished
    assert second.finished


def test_a_stream_ends_with_its_error() -> None:
    core = open_core()
    call = begin(core, streaming=True)
    assert take_output(core)[0].flags & FLAG_STREAMING
    core.feed(response(1, b"x") + response(1, b"y"))
    assert not call.finished
    core.feed(response(1, errnum=errno.ENODATA))
    assert call.finished
    assert [message.errnum for message in call.responses] == [0, 0, errno.ENODATA]


def test_late_response_to_an_abandoned_call_is_nobodys() -> None:
    core = open_core()
    call = begin(core, streaming=True)
    core.feed(response(1, b"x"))
    core.abandon(call)
    assert not call.responses
    other = begin(core)
    assert other.matchtag == 2
    assert core.feed(response(1, b"late") + response(1, errnum=errno.ENODATA)) == []
    assert not other.responses
    assert begin(core).matchtag == 1


def test_response_without_call_is_ignored() -> None:
    assert open_core().feed(response(0) + response(99)) == []


def test_events_and_requests_queue_up() -> None:
    core = open_core()
    core.feed(encode_frame(Message(EVENT, "heartbeat.pulse", aux1=5, routes=["x"])))
    core.feed(encode_frame(Message(REQUEST, "mine.hello", aux2=3, routes=["a", "b"])))
    assert core.events[0].sequence == 5
    assert core.requests[0].routes == ["a", "b"]


def test_answer_goes_back_the_way_the_request_came() -> None:
    core = open_core()
    request = Message(REQUEST, "mine.hello", userid=5, rolemask=1, aux1=0, aux2=3, routes=["a", "b"])
    core.respond(request, b"data", 0)
    (answer,) = take_output(core)
    assert (answer.type, answer.topic, answer.matchtag) == (RESPONSE, "mine.hello", 3)
    assert answer.routes == ["a", "b"]
    assert answer.rolemask == 0  # the broker fills in ours, not the requester's


def test_who_wants_no_answer_gets_none() -> None:
    core = open_core()
    core.respond(Message(REQUEST, "mine.hello", flags=FLAG_NORESPONSE, routes=["a"]))
    assert not core.output


def test_private_event() -> None:
    core = open_core()
    core.publish("a.b", None, private=True)
    (event,) = take_output(core)
    assert event.type == EVENT
    assert event.flags & FLAG_PRIVATE


def test_credentials_that_tests_ask_for() -> None:
    core = ClientCore(userid=42, rolemask=2)
    core.post("a.b", None)
    (request,) = take_output(core)
    assert (request.userid, request.rolemask) == (42, 2)


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 40))
def test_bytes_in_any_slicing_mean_the_same(payloads: list[bytes], size: int) -> None:
    core = ClientCore()
    calls = [Call("a.b") for _ in payloads]
    for call in calls:
        core.begin(call, None)
    stream = b"\0" + b"".join(response(call.matchtag, data) for call, data in zip(calls, payloads, strict=True))
    answered = []
    for start in range(0, len(stream), size):
        answered += core.feed(stream[start : start + size])
    assert answered == calls
    assert [call.responses[0].payload for call in calls] == payloads


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    core = open_core()
    try:
        core.feed(data)
    except ProtocolError:
        return
    assert len(data) < 4 or not core.events
