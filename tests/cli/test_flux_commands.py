"""Commands that ask a broker something and print the answer."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_flux.cli.commands.event import format_event
from pytest_flux.cli.commands.ping import find_target
from pytest_flux.cli.commands.uptime import format_uptime
from pytest_flux.cli.flux import main
from pytest_flux.client.core import NODEID_UPSTREAM
from pytest_flux.client.hosts import HostMap
from pytest_flux.protocol.message import EVENT, FLAG_PRIVATE, NODEID_ANY, Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker, open_broker

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBroker]:
    with open_broker() as bed:
        monkeypatch.setenv("FLUX_URI", bed.uri)
        yield bed


# Attributes


def test_getattr(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["getattr", "size"]) == 0
    assert capsys.readouterr().out == "4\n"
    assert main(["getattr", "xx"]) == 1
    assert capsys.readouterr().err == "flux-getattr: xx: No such file or directory\n"


@pytest.mark.parametrize(
    "words", [["getattr"], ["getattr", "a", "b"], ["setattr", "a"], ["setattr", "a", "b", "c"], ["lsattr", "a"]]
)
def test_wrong_number_of_arguments(words: list[str], capsys: Capture) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"Usage: flux {words[0]} ")


def test_setattr(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["setattr", "test.count", "-5"]) == 0
    assert bed.attributes["test.count"] == "-5"
    assert main(["setattr", "-f", "test.count", "6"]) == 0
    assert bed.received[-1].json() == {"name": "test.count", "value": "6", "force": True}
    assert main(["setattr", "nosuch", "1"]) == 1
    assert main(["setattr", "rank", "1"]) == 1
    assert capsys.readouterr().err == (
        "flux-setattr: nosuch: unknown attribute\nflux-setattr: rank: Operation not permitted\n"
    )


def test_lsattr(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["lsattr"]) == 0
    names = sorted([*bed.attributes, "parent-uri"])
    assert capsys.readouterr().out.splitlines() == names
    assert main(["lsattr", "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name:<40}{bed.attributes.get(name, '-')}" for name in names]


# Ping


def answer_ping(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
    more = {"route": "aaaaaaaa!bbbbbbbb", "userid": 100, "rolemask": 5, "rank": 3}
    bed.answer(connection, request, request.json() | more)


def test_ping(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("broker.ping", answer_ping)
    assert main(["ping", "-c2", "-i0", "node3"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "flux-ping node3!broker (rank 3)"
    for number, line in enumerate(lines):
        pattern = rf"3!broker\.ping pad=0 seq={number} time=[0-9]+\.[0-9]{{3}} ms \(aaaaaaaa!bbbbbbbb\)"
        assert re.fullmatch(pattern, line)
    assert len(lines) == 2
    assert bed.received[-1].nodeid == 3


def test_ping_options(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("kvs.ping", answer_ping)
    assert main(["ping", "-c3", "-bu", "-i", "1ms", "-p", "1.5k", "-r", "1", "kvs"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "flux-ping 1!kvs"
    assert len(lines) == 3
    assert lines[2].startswith("3!kvs.ping pad=1536 userid=100 rolemask=0x5 seq=2 ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nosuch"], "nosuch.ping: Function not implemented"),
        (["2!nosuch"], "2!nosuch.ping: Function not implemented"),
        (["x!kvs"], "invalid nodeid/host: 'x'"),
        (["-r1", "2!kvs"], "--rank and TARGET both try to specify a nodeid"),
        (["-c-1", "kvs"], "count must be >= 0"),
        (["-b", "kvs"], "--batch should only be used with --count"),
        (["-p", "bad", "kvs"], "flux-ping: invalid argument for option 'pad': bad: Invalid argument"),
        (["-p", "-1", "kvs"], "flux-ping: invalid argument for option 'pad': -1: Invalid argument"),
        (["-p", "4G", "kvs"], "flux-ping: pad: value 4G too large (must be < 2G)"),
    ],
)
def test_ping_that_fails(bed: ScriptedBroker, words: list[str], complaint: str, capsys: Capture) -> None:
    assert main(["ping", "-c1", *words] if "-b" not in words else ["ping", *words]) == 1
    assert capsys.readouterr().err == f"flux-ping: {complaint}\n"


def test_ping_that_is_answered_wrongly(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("kvs.ping", {"pad": "other"})
    assert main(["ping", "-c1", "-p1", "kvs"]) == 1
    assert capsys.readouterr().err == "flux-ping: kvs.ping: padding contents invalid\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("any", ("broker", NODEID_ANY, "any", "")),
        ("upstream", ("broker", NODEID_UPSTREAM, "upstream", "")),
        ("upstream!kvs", ("kvs", NODEID_UPSTREAM, "upstream", "")),
        ("7", ("broker", 7, "7", "")),
        ("07!kvs", ("kvs", 7, "7", "")),
        ("b", ("broker", 1, "b", " (rank 1)")),
        ("kvs", ("kvs", NODEID_ANY, "any", "")),
    ],
)
def test_ping_targets(text: str, found: tuple[str, int, str, str]) -> None:
    assert find_target(HostMap(["a", "b"]), text) == found


# Events


def test_event_pub(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["event", "pub", "-s", "foo", '{"a":1}']) == 0
    assert capsys.readouterr().out == "seq=1\n"
    assert main(["event", "pub", "-l", "foo", "not", "json"]) == 0
    assert main(["event", "pub", "--raw", "--loopback", "foo", "a", "b"]) == 0
    assert main(["event", "pub", "-rl", "foo"]) == 0
    assert main(["event", "pub", "-slp", "foo"]) == 0
    assert capsys.readouterr().out == "seq=5\n"


def test_event_pub_sends_what_it_is_told(bed: ScriptedBroker) -> None:
    with_flags: list[tuple[bytes | None, bool]] = []
    original = bed.publish

    def publish(event: Message) -> int:
        with_flags.append((event.payload, bool(event.flags & FLAG_PRIVATE)))
        return original(event)

    bed.publish = publish  # type: ignore[method-assign]
    for words in ([], ["x", "y"], ["-r", "x"], ["-p"], ["-sp", "x"]):
        options = [word for word in words if word.startswith("-")]
        rest = [word for word in words if not word.startswith("-")]
        assert main(["event", "pub", "-l", *options, "foo", *rest]) == 0
    assert with_flags == [(None, False), (b"x y\0", False), (b"x", False), (None, True), (b"x\0", True)]


def test_event_sub(bed: ScriptedBroker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def subscribe(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        bed.subscribe(connection, request)
        if request.json()["topic"] == "last":
            for topic, payload in (("foo", None), ("foo.x", b'{"a": 1}\0'), ("bar", b""), ("last", b"a\1\xff")):
                bed.publish(Message(EVENT, topic, payload, routes=[]))

    bed.on("event.subscribe", subscribe)
    assert main(["event", "sub", "-c", "3", "foo", "last"]) == 0
    assert capsysbinary.readouterr().out == b'foo\t\nfoo.x\t{"a": 1}\nlast\ta..\n'
    assert bed.requests[-2:] == ["event.unsubscribe"] * 2


def test_event_sub_to_everything(bed: ScriptedBroker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def subscribe(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        bed.subscribe(connection, request)
        bed.publish(Message(EVENT, "any.thing", routes=[]))

    bed.on("event.subscribe", subscribe)
    assert main(["event", "sub", "--count=1"]) == 0
    assert capsysbinary.readouterr().out == b"any.thing\t\n"


def test_event_payload_in_utf8() -> None:
    event = Message(EVENT, "topic", '{"é":1}\0'.encode())
    assert format_event(event) == 'topic\t{"é":1}\n'.encode()


def test_event_that_is_refused(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("event.publish", errnum=errno.EPERM)
    bed.on("event.subscribe", errnum=errno.EPERM)
    assert main(["event", "pub", "-s", "foo"]) == 1
    assert main(["event", "sub", "foo"]) == 1
    assert capsys.readouterr().err == (
        "flux-event: publish failed: Operation not permitted\n"
        "flux-event: flux_event_subscribe: Operation not permitted\n"
    )


# Logger


def test_logger(bed: ScriptedBroker) -> None:
    bed.on("log.append", lambda *_: None)
    assert main(["logger", "hello", "-s", "DEBUG", "--appname=app", "world"]) == 0
    assert main(["getattr", "size"]) == 0  # the log has arrived when this has
    request = next(message for message in bed.received if message.topic == "log.append")
    assert re.fullmatch(
        rb"<56>1 [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z 0 app [0-9]+ - - hello world",
        request.payload or b"",
    )
    assert request.matchtag == 0


def test_logger_reads_lines(bed: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.on("log.append", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\ntwo\r\n\xff\n")))
    assert main(["logger"]) == 0
    assert main(["getattr", "size"]) == 0
    lines = [message.payload or b"" for message in bed.received if message.topic == "log.append"]
    assert [line.rpartition(b" - - ")[2] for line in lines] == [b"one", b"two", b"\xff"]
    assert all(line.startswith(b"<40>1 ") for line in lines)


def test_logger_knows_its_severities(capsys: Capture) -> None:
    assert main(["logger", "-s", "bad", "x"]) == 1
    assert capsys.readouterr().err == (
        "flux-logger: invalid severity: Use emerg|alert|crit|err|warning|notice|info|debug\n"
    )


# Uptime


def instance_in_state(bed: ScriptedBroker, state: str, **services: dict[str, Any]) -> None:
    bed.on("state-machine.get", {"state": state, "duration": 5.04})
    bed.attributes["broker.starttime"] = f"{time.time() - 125:.2f}"
    bed.on("groups.get", {"members": "0-3"})
    for topic, answer in services.items():
        bed.on(topic.replace("__", ".").replace("_", "-"), answer)


def uptime_line(capsys: Capture) -> list[str]:
    assert main(["uptime"]) == 0
    first, *more = capsys.readouterr().out.splitlines()
    assert re.match(r" [0-9]{2}:[0-9]{2}:[0-9]{2} ", first)
    return [first[10:], *more]


def test_uptime(bed: ScriptedBroker, capsys: Capture) -> None:
    import pwd

    owner = pwd.getpwuid(os.getuid()).pw_name
    instance_in_state(bed, "run")
    assert uptime_line(capsys) == [f"run 2.1m,  owner {owner},  depth 0,  size 4"]
    bed.attributes["security.owner"] = "987654"
    bed.on("groups.get", {"members": "0,2"})
    assert uptime_line(capsys) == ["run 2.1m,  owner 987654,  depth 0,  size 4,  2 offline"]


def test_uptime_with_resources_and_queues(bed: ScriptedBroker, capsys: Capture) -> None:
    instance_in_state(
        bed,
        "run",
        resource__status={"drain": {"0-1": {}, "3": {}}},
        job_manager__queue_list={"queues": ["a", "b"]},
        job_manager__queue_status={"enable": False, "start": False},
    )
    lines = uptime_line(capsys)
    assert lines[0].endswith("size 4,  3 drained")
    assert lines[1:] == ["  submit disabled,  scheduler stopped"]
    bed.on("job-manager.queue-status", {"enable": True, "start": False})
    bed.on("job-manager.queue-list", {"queues": []})
    assert uptime_line(capsys)[1:] == ["  scheduler stopped"]
    bed.on("job-manager.queue-status", {"enable": True, "start": True})
    assert uptime_line(capsys)[1:] == []


def test_uptime_before_it_runs(bed: ScriptedBroker, capsys: Capture) -> None:
    instance_in_state(bed, "quorum")
    assert uptime_line(capsys)[0].startswith("quorum 5s,  owner ")
    assert "groups.get" not in bed.requests


def test_uptime_that_fails(bed: ScriptedBroker, capsys: Capture) -> None:
    instance_in_state(bed, "run")
    bed.on("resource.status", errnum=errno.EPERM)
    assert main(["uptime"]) == 1
    assert capsys.readouterr().err == "flux: Error fetching resource status: Operation not permitted\n"
    del bed.attributes["instance-level"]
    assert main(["uptime"]) == 1
    assert capsys.readouterr().err == ("flux: Error fetching instance-level attribute: No such file or directory\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.05, "50ms"), (0.994, "0.99s"), (72, "1.2m"), (5400, "1.5h"), (86400 * 12.34, "12d")],
)
def test_uptime_has_two_digits(seconds: float, text: str) -> None:
    assert format_uptime(seconds) == text


# Modules and configuration


MODULES = [
    {
        "name": "kvs",
        "path": "/x/kvs.so",
        "idle": 3,
        "status": 1,
        "services": ["kvs"],
        "sendqueue": 1,
        "recvqueue": 22,
    },
    {"name": "sched", "path": "builtin", "idle": 100, "status": 9, "services": ["sched", "feasibility", "b"]},
]


def test_module_list(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("module.list", {"mods": MODULES})
    assert main(["module", "list"]) == 0
    assert capsys.readouterr().out == (
        "Module                    Idle  S Sendq Recvq Service\n"
        "kvs                          3  R     1    22 \n"
        "sched                     idle  ?     0     0 feasibility,b\n"
    )
    assert main(["module", "list", "-l"]) == 0
    assert capsys.readouterr().out == (
        "Module                    Idle  S Sendq Recvq Service  Path\n"
        "kvs                          3  R     1    22          /x/kvs.so\n"
        "sched                     idle  ?     0     0 feasibi+ builtin\n"
    )


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], '{\n "a": {\n  "b": 2,\n  "c": 0.5\n }\n}\n'),
        (["-p", "a"], '{\n "b": 2,\n "c": 0.5\n}\n'),
        (["--parse=a.b"], "2\n"),
        (["-p", "a.b", "-s", "2.5"], "5\n"),
        (["-p", "a.b", "-t", "double"], "2\n"),
        (["-p", "a.c"], "0.500000\n"),
        (["-p", "a.c", "-s2", "-t", "int"], "1\n"),
    ],
)
def test_module_stats(bed: ScriptedBroker, words: list[str], output: str, capsys: Capture) -> None:
    bed.on("kvs.stats-get", {"a": {"b": 2, "c": 0.5}})
    assert main(["module", "stats", *words, "kvs"]) == 0
    assert capsys.readouterr().out == output


def test_module_stats_of_other_kinds(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("kvs.rusage", {"nvcsw": 1})
    bed.on("kvs.stats-clear", {})
    assert main(["module", "stats", "-R", "kvs"]) == 0
    assert main(["module", "stats", "-Rself", "-p", "nvcsw", "kvs"]) == 0
    assert bed.received[-1].json() == {"who": "self"}
    assert main(["module", "stats", "-c", "kvs"]) == 0
    assert main(["module", "stats", "-C", "kvs"]) == 0
    assert capsys.readouterr().out == '{\n "nvcsw": 1\n}\n1\n'
    assert main(["module", "stats", "-p", "x.y", "-R", "kvs"]) == 1
    assert main(["module", "stats", "nosuch"]) == 1
    assert capsys.readouterr().err == (
        "flux-module: `x.y' not found in response\n"
        "flux-module: nosuch.stats-get: No service matching nosuch.stats-get is registered\n"
    )


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ([], {"op": "setbit", "flags": 0}),
        (["-C"], {"op": "clr", "flags": 0}),
        (["-S", "0x1f"], {"op": "set", "flags": 31}),
        (["-s", "4"], {"op": "setbit", "flags": 4}),
        (["-c", "2"], {"op": "clrbit", "flags": 2}),
    ],
)
def test_module_debug(bed: ScriptedBroker, words: list[str], request_: dict[str, Any], capsys: Capture) -> None:
    bed.on("kvs.debug", {"flags": 31})
    assert main(["module", "debug", *words, "kvs"]) == 0
    assert bed.received[-1].json() == request_
    assert capsys.readouterr().out == "0x1f\n"


CONFIG = {"kvs": {"period": "2m", "n": 5, "x": 1.5, "on": True, "list": [1, "é"]}, "empty": {}}


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], '{"kvs":{"period":"2m","n":5,"x":1.5,"on":true,"list":[1,"é"]},"empty":{}}'),
        (["kvs.period"], "2m"),
        (["-t", "fsd", "kvs.period"], "2m"),
        (["-t", "fsd-integer", "kvs.period"], "120"),
        (["-t", "FSD-real", "kvs.period"], "120.000000"),
        (["-t", "boolean", "kvs.on"], "true"),
        (["-t", "integer", "kvs.n"], "5"),
        (["-t", "real", "kvs.x"], "1.5"),
        (["-t", "array", "kvs.list"], '[1,"é"]'),
        (["-t", "object", "empty"], "{}"),
        (["-d", "7", "kvs.nosuch"], "7"),
    ],
)
def test_config_get(bed: ScriptedBroker, words: list[str], output: str, capsys: Capture) -> None:
    bed.on("config.get", CONFIG)
    assert main(["config", "get", *words]) == 0
    assert capsys.readouterr().out == output + "\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nosuch"], "nosuch is not set"),
        (["kvs.n.deeper"], "kvs.n.deeper is not set"),
        (["kvs..n"], "kvs..n: Invalid argument"),
        (["-t", "bad"], "Unknown type: bad"),
        (["-t", "string"], "value does not have the requested type"),
        (["-t", "integer", "kvs.on"], "kvs.on does not have the requested type"),
        (["-t", "fsd", "kvs.n"], "kvs.n does not have the requested type"),
        (["-c", "/nonexistent"], "stat: /nonexistent: No such file or directory"),
    ],
)
def test_config_get_that_fails(bed: ScriptedBroker, words: list[str], complaint: str, capsys: Capture) -> None:
    bed.on("config.get", CONFIG)
    assert main(["config", "get", *words]) == 1
    assert capsys.readouterr().err == f"flux-config: {complaint}\n"


def test_config_get_quietly(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("config.get", CONFIG)
    assert main(["config", "get", "-q", "nosuch"]) == 1
    assert capsys.readouterr().err == ""


def test_config_reload(bed: ScriptedBroker, capsys: Capture) -> None:
    assert main(["config", "reload"]) == 1
    assert capsys.readouterr().err == ("flux-config: reload: No service matching config.reload is registered\n")
    bed.on("config.reload", {})
    assert main(["config", "reload"]) == 0
    bed.attributes["rank"] = "1"
    bed.requests.clear()
    assert main(["config", "reload", "--follower-noop"]) == 0
    assert "config.reload" not in bed.requests


# Shutdown


def shutdown_that_logs(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
    for line in ("broker.info[0]: one\n", "broker.info[0]: two\n"):
        bed.answer(connection, request, {"log": line})
    bed.answer(connection, request, errnum=errno.ENODATA)


@pytest.mark.parametrize(("words", "level"), [([], 6), (["--quiet"], 4), (["-v"], 7), (["--verbose=0"], 6)])
def test_shutdown(bed: ScriptedBroker, words: list[str], level: int, capsys: Capture) -> None:
    bed.on("config.get", {})
    bed.on("shutdown.start", shutdown_that_logs)
    assert main(["shutdown", *words]) == 0
    assert capsys.readouterr().err == "broker.info[0]: one\nbroker.info[0]: two\n"
    assert bed.received[-1].json() == {"loglevel": level}
    assert bed.received[-1].is_streaming


def test_shutdown_in_background_and_elsewhere(bed: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.on("config.get", {})
    bed.on("shutdown.start", {})
    monkeypatch.delenv("FLUX_URI")
    assert main(["shutdown", "--background", bed.uri]) == 0
    assert not bed.received[-1].is_streaming


def test_shutdown_that_is_refused(bed: ScriptedBroker, capsys: Capture) -> None:
    bed.on("config.get", {})
    text = b"shutdown may only be initiated on rank 0\0"
    bed.on("shutdown.start", lambda bed, connection, request: bed.answer(connection, request, text, errno.EINVAL))
    assert main(["shutdown"]) == 1
    assert main(["shutdown", "nosuch"]) == 1
    assert main(["shutdown", "--gc", "--dump=x"]) == 1
    assert capsys.readouterr().err == (
        "flux-shutdown: shutdown may only be initiated on rank 0\n"
        "flux-shutdown: failed to resolve target nosuch to a Flux URI: only local://PATH is understood\n"
        "flux-shutdown: --gc is incompatible with --skip-gc or --dump\n"
    )


@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        (["--dump=x.tgz"], "", "x.tgz"),
        (["--gc"], "", "auto"),
        (["-y"], "", "auto"),
        (["-n"], "", ""),
        ([], "other.tgz", "auto"),
    ],
)
def test_shutdown_with_dump(
    bed: ScriptedBroker, words: list[str], before: str, after: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.attributes |= {"content.dump": before, "statedir": "/state"}
    bed.on("config.get", {"kvs": {"gc-threshold": 10}})
    bed.on("kvs.getroot", {"rootseq": 11})
    bed.on("shutdown.start", {})
    monkeypatch.setattr(sys, "stdin", _Terminal("what\n\n"))
    assert main(["shutdown", "--background", *words]) == 0
    assert bed.attributes["content.dump"] == after
    if after == "auto":
        assert "shutdown will dump KVS to /state/dump/ (this" in capsys.readouterr().err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_shutdown_asks_only_on_a_terminal(
    bed: ScriptedBroker, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.on("config.get", {"kvs": {"gc-threshold": 10}})
    bed.on("kvs.getroot", {"rootseq": 11})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["shutdown"]) == 1
    assert capsys.readouterr().err == "flux-shutdown: gc threshold exceeded, specify -y or -n\n"
    monkeypatch.setattr(sys, "stdin", _Terminal(""))
    assert main(["shutdown"]) == 1
    bed.on("shutdown.start", {})
    monkeypatch.setattr(sys, "stdin", _Terminal("n\n"))
    assert main(["shutdown", "--background"]) == 0
    assert "content.dump" not in bed.attributes
