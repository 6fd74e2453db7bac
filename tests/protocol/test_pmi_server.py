"""The PMI-1 server, against recordings of flux-core 0.88's and beyond."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol import pmi
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.pmi_server import (
    GROUPS_MAX,
    Abort,
    Barriers,
    ClientError,
    Event,
    Finalized,
    PmiServer,
    Reply,
)
from tests.protocol.test_pmi import slices

DATA = Path(__file__).parent / "data"
MAPPING = "PMI_process_mapping"
BARRIER = b"cmd=barrier_in\n"
OUT = "cmd=barrier_out rc=0"


def said(events: list[Event]) -> list[str]:
    """The replies among ``events``, each with the rank it goes to."""
    return [f"{event.rank} {event.line}" for event in events if isinstance(event, Reply)]


def ask(server: PmiServer, line: str, rank: int = 0) -> str:
    """The reply to ``rank``, which has to be all that happens."""
    (event,) = server.receive(rank, pmi.encode_line(line))
    assert isinstance(event, Reply)
    assert event.rank == rank
    return event.line


@pytest.mark.parametrize(
    ("name", "size", "kvs"),
    [
        ("pmi-trace-size1.txt", 1, {}),
        ("pmi-trace-size4.txt", 4, {MAPPING: "(vector,(0,1,4))"}),
        ("pmi-conversation.txt", 1, {MAPPING: "(vector,(0,1,1))"}),  # the recorded case of that name
    ],
)
def test_recorded_conversations(name: str, size: int, kvs: dict[str, str]) -> None:
    """What was said to flux start, said to us, gives the same trace and replies, in the same order."""
    recorded = (DATA / name).read_text().splitlines()
    trace: list[str] = []
    replies: list[str] = []
    server = PmiServer(size, kvs=kvs, trace=trace.append)
    for line in recorded:
        rank, speaker, text = line.split(": ", 2)
        if speaker == "C":
            events = server.receive(int(rank), text.encode() + b"\n")
            replies += [f"{event.rank}: S: {event.line}" for event in events if isinstance(event, Reply)]
            assert (Finalized(int(rank)) in events) is (text == "cmd=finalize")
    assert trace == recorded
    assert replies == [line for line in recorded if ": S: " in line]


def test_recorded_garbage() -> None:
    """The recorded case pmi-garbage: flux start dies of it, in these words."""
    with pytest.raises(ProtocolError) as caught:
        PmiServer(1).receive(0, b"this is not pmi\n")
    assert f"channel_cb: {caught.value.what}" == "channel_cb: pmi_simple_server_request: Protocol error"
    assert "rank 0" in caught.value.where
    assert "this is not pmi" in caught.value.where


def test_recorded_abort() -> None:
    """The recorded case pmi-abort."""
    server = PmiServer(2)
    assert ask(server, "cmd=init pmi_version=1 pmi_subversion=1", rank=1).endswith("pmi_version=1 pmi_subversion=1")
    events = server.receive(1, b"cmd=abort exitcode=42 error_msg=woops it broke\n")
    assert events == [Abort(1, 42, "woops it broke")]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("cmd=abort", 1, "aborted"),
        ("cmd=abort exit_code=7 error_msg=", 7, ""),
        ("cmd=abort exitcode=-1", 1, "aborted"),
        ("cmd=abort exitcode=7 message=so said MPICH", 7, "so said MPICH"),
        ("cmd=abort exitcode=7 error_msg=a message=b", 7, "a message=b"),
        ("cmd=abort exitcode=0 error_msg=" + "x" * 1024, 0, "aborted"),
    ],
)
def test_aborts(line: str, code: int, message: str) -> None:
    assert PmiServer(1).receive(0, line.encode() + b"\n") == [Abort(0, code, message)]


@pytest.mark.parametrize(
    ("version", "reply"),
    [
        ((1, 1), "rc=0 pmi_version=1 pmi_subversion=1"),
        ((1, 2), "rc=0 pmi_version=1 pmi_subversion=2"),  # flux-core: 1
        ((1, 9), "rc=0 pmi_version=1 pmi_subversion=2"),  # flux-core: 1
        ((3, 0), "rc=0 pmi_version=1 pmi_subversion=1"),
        ((1, 0), "rc=-1"),
        ((0, 5), "rc=-1"),
        ((2, 0), "rc=-1"),
    ],
)
def test_versions(version: tuple[int, int], reply: str) -> None:
    asked = f"cmd=init pmi_version={version[0]} pmi_subversion={version[1]}"
    assert ask(PmiServer(1), asked) == f"cmd=response_to_init {reply}"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("cmd=put kvsname=- key=a value=" + "x" * 1023, "put_result rc=0"),
        ("cmd=put kvsname=- key=a value=" + "x" * 1024, "put_result rc=7"),
        ("cmd=put kvsname=- key=a value=" + "\N{EURO SIGN}" * 342, "put_result rc=7"),  # 1026 bytes
        ("cmd=put kvsname=- key=a value=" + "x" * 30000, "put_result rc=7"),
        ("cmd=put kvsname=- key=" + "k" * 63 + " value=", "put_result rc=0"),
        ("cmd=put kvsname=- key=" + "k" * 64 + " value=", "put_result rc=5"),
        ("cmd=put kvsname=" + "n" * 63 + " key=a value=", "put_result rc=0"),
        ("cmd=put kvsname=" + "n" * 64 + " key=a value=v", "put_result rc=8"),
        ("cmd=get kvsname=" + "n" * 64 + " key=a", "get_result rc=8"),
        ("cmd=get kvsname=" + "n" * 64, "get_result rc=8"),  # found before the key is missed
        ("cmd=get kvsname=- key=" + "k" * 64, "get_result rc=5"),
        ("cmd=get kvsname=- key=" + "k" * 63, "get_result rc=4"),
        ("cmd=get kvsname=- key=", "get_result rc=4"),
    ],
)
def test_limits(line: str, reply: str) -> None:
    """Each of these was tried on flux-core 0.88's server."""
    assert ask(PmiServer(1), line) == f"cmd={reply}"


@pytest.mark.parametrize(
    ("put", "key", "value"),
    [
        ("key=f value=foo found=TRUE kvsname=-", "f", "foo found=TRUE kvsname=-"),
        ("kvsname=- key=f value=foo found=TRUE", "f", "foo"),
        ("key=a b= value=a key=zz kvsname=-", "a", "a key=zz kvsname=-"),
        ("kvsname=- key= value=empty", "", "empty"),
        ("kvsname=- key=u value=\u00e9\u00a0\u0085 x\r", "u", "\u00e9\u00a0\u0085 x\r"),
        ("kvsname=-\tkey=t\r value==", "t", "="),
        ("kvsname=- key=e value=", "e", ""),
    ],
)
def test_what_is_put_can_be_got(put: str, key: str, value: str) -> None:
    """Under any kvsname, by any rank, at once; as flux-core 0.88's server did."""
    server = PmiServer(2, kvs={key: "before"})
    assert ask(server, f"cmd=put {put}") == "cmd=put_result rc=0"
    assert server.kvs == {key: value}
    assert ask(server, f"cmd=get kvsname=other key={key}", rank=1) == f"cmd=get_result rc=0 value={value}"


def test_bytes_that_are_no_text_come_back() -> None:
    server = PmiServer(1)
    server.receive(0, b"cmd=put kvsname=- key=\xff value=\xfe\xff\n")
    (event,) = server.receive(0, b"cmd=get kvsname=- key=\xff\n")
    assert isinstance(event, Reply)
    assert pmi.encode_line(event.line) == b"cmd=get_result rc=0 value=\xfe\xff\n"


def test_the_program_and_names() -> None:
    server = PmiServer(7, local_size=2, kvsname="job", appnum=3)
    assert ask(server, "cmd=get_universe_size") == "cmd=universe_size rc=0 size=7"
    assert ask(server, "cmd=get_appnum") == "cmd=appnum rc=0 appnum=3"
    assert ask(server, "cmd=get_my_kvsname") == "cmd=my_kvsname rc=0 kvsname=job"
    for command in ("publish", "unpublish", "lookup"):
        reply = f"cmd={command}_result rc=-1 msg=command not implemented"
        assert ask(server, f"cmd={command}_name service=x") == reply


def test_spawn_is_refused_at_its_very_end() -> None:
    lines = ["mcmd=spawn", "nprocs=1", "cmd=finalize", "endcmd ", "", "\x01", "endcmd"]
    trace: list[str] = []
    server = PmiServer(1, trace=trace.append)
    assert said(server.receive(0, "".join(line + "\n" for line in lines).encode())) == ["0 cmd=spawn_result rc=-1"]
    assert trace == [*(f"0: C: {line}" for line in lines), "0: S: cmd=spawn_result rc=-1"]
    assert ask(server, "cmd=get_appnum") == "cmd=appnum rc=0 appnum=0"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"cmd=init",
        b"cmd=init pmi_version=1",
        b"cmd=init pmi_version=1 pmi_subversion=x",
        b"cmd=initack pmiid=1",
        b"cmd=put key=a value=b",
        b"cmd=put kvsname=- value=b",
        b"cmd=put kvsname=- key=b",
        b"cmd=get kvsname=-",
        b"cmd=get key=a",
        b"cmd=spawn",
        b"cmd=finalize\0",
        b"cmd=put kvsname=- key=a value=" + b"x" * pmi.LINE_MAX,
    ],
)
def test_protocol_errors(line: bytes) -> None:
    """They are the client's own: others go on, and what was answered before is not lost."""
    server = PmiServer(2)
    with pytest.raises(ClientError) as caught:
        server.receive(0, b"cmd=get_appnum\n" + line + b"\ncmd=get_appnum\n")
    assert caught.value.rank == 0
    assert said(caught.value.events) == ["0 cmd=appnum rc=0 appnum=0"]
    with pytest.raises(ClientError) as caught:
        server.receive(0, b"cmd=get_appnum\n")
    assert caught.value.events == []
    assert ask(server, "cmd=get_appnum", rank=1) == "cmd=appnum rc=0 appnum=0"
    server.disconnect(0)
    assert ask(server, "cmd=get_appnum") == "cmd=appnum rc=0 appnum=0"


def test_an_error_after_the_last_barrier_in_releases_the_others() -> None:
    server = PmiServer(2)
    assert server.receive(1, b"cmd=barrier_in\n") == []
    with pytest.raises(ClientError) as caught:
        server.receive(0, b"cmd=barrier_in\ngarbage\n")
    assert said(caught.value.events) == ["0 cmd=barrier_out rc=0", "1 cmd=barrier_out rc=0"]


def test_nothing_follows_finalize() -> None:
    server = PmiServer(1)
    events = server.receive(0, b"cmd=finalize\ngarbage\n\0")
    assert events == [Reply(0, "cmd=finalize_ack rc=0"), Finalized(0)]
    assert server.receive(0, b"garbage\n") == []
    server.disconnect(0)
    assert ask(server, "cmd=get_appnum") == "cmd=appnum rc=0 appnum=0"


def test_a_lost_connection_takes_its_unfinished_line_along() -> None:
    server = PmiServer(1)
    server.disconnect(0)
    assert server.receive(0, b"cmd=get_uni") == []
    server.disconnect(0)
    assert ask(server, "cmd=get_appnum") == "cmd=appnum rc=0 appnum=0"


def test_there_is_no_such_rank() -> None:
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=f"rank {rank} in a PMI program of size 2"):
            PmiServer(2).receive(rank, b"")


def outcome(server: PmiServer, pieces: list[bytes]) -> tuple[list[Event], bool]:
    """All that follows from ``pieces``, and whether they ended in an error."""
    events: list[Event] = []
    for piece in pieces:
        try:
            events += server.receive(0, piece)
        except ClientError as error:
            return events + error.events, True
    return events, False


LINES = st.sampled_from(
    [
        *(b"cmd=" + command.encode() for command in pmi.COMMANDS),
        b"cmd=init pmi_version=1 pmi_subversion=1",
        b"cmd=init pmi_version=1 pmi_subversion=2",
        b"cmd=put kvsname=- key=a value=b c",
        b"cmd=get kvsname=- key=a",
        b"cmd=barrier_in group=WORLD:7",
        b"mcmd=spawn",
        b"endcmd",
        b"cmd=abort exitcode=3",
    ]
)


@settings(max_examples=200)
@given(st.lists(LINES | st.binary(max_size=40)), st.lists(st.integers(1, 60)))
def test_the_outcome_does_not_depend_on_the_slicing(lines: list[bytes], sizes: list[int]) -> None:
    stream = b"\n".join(lines) + b"\n"
    whole = outcome(PmiServer(1), [stream])
    assert outcome(PmiServer(1), [bytes([byte]) for byte in stream]) == whole
    assert outcome(PmiServer(1), slices(stream, sizes)) == whole


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=30).map(lambda tail: b"cmd=" + tail) | st.binary(max_size=40)))
def test_garbage_raises_protocol_errors_only(pieces: list[bytes]) -> None:
    outcome(PmiServer(1, trace=lambda line: None), pieces)


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
