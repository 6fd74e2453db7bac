"""The log, the configuration and the attributes: on the command line and at run time."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.client import Flux
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.stdlog import LogEntry, encode_entry
from tests.parity.differences import differs
from tests.parity.instances import Engine, Running

WAIT = 15.0


def error_of(flux: Flux, topic: str, payload: dict[str, Any] | None = None, rank: int = 0) -> tuple[int, str | None]:
    with pytest.raises(FluxError) as caught:
        flux.rpc(topic, payload, nodeid=rank).get(WAIT)
    return caught.value.errnum, caught.value.text


def entry(severity: int, rank: int, text: str) -> bytes:
    return encode_entry(LogEntry(severity, 0, "2026-08-13T10:00:00.000000Z", str(rank), "parity", "42", text))


# -- the log


def test_following_the_log(three: Running, flux: Flux) -> None:
    flux.rpc("log.clear", nodeid=0).get(WAIT)
    flux.post("log.append", entry(6, 0, "first"), nodeid=0)
    ring = flux.rpc("log.dmesg", {"follow": False}, streaming=True, timeout=WAIT)
    assert ring.get_text().endswith(" parity 42 - - first")
    follow = flux.rpc("log.dmesg", {"follow": True, "nobacklog": True}, streaming=True, timeout=WAIT)
    flux.post("log.append", entry(7, 0, "second"), nodeid=0)
    assert follow.get_text().endswith("second")
    follow.cancel("log.cancel")
    with pytest.raises(FluxError) as caught:
        follow.get()
    assert caught.value.errnum == errno.ENODATA


def test_grave_lines_are_forwarded_and_printed(engine: Engine) -> None:
    with engine.running("-s3", "-Stbon.topo=kary:1") as running:
        leaf = running.client(2)
        leaf.post("log.append", entry(6, 2, "not grave"))
        leaf.post("log.append", entry(3, 2, "grave"))
        assert running.wait_for("grave") == "parity.err[2]: grave"
        # The ring has what is of this rank.
        texts = [flux_text for flux_text in ring_of(leaf) if "grave" in flux_text]
        assert len(texts) == 2
        assert not [text for text in ring_of(running.client(0)) if "grave" in text]
        running.client(0).setattr("log-stderr-level", "6")
        leaf.post("log.append", entry(5, 0, "from another"), nodeid=0)
        assert running.wait_for("from another") == "parity.notice[0]: from another"


def ring_of(flux: Flux) -> list[str]:
    rpc = flux.rpc("log.dmesg", {"follow": False}, nodeid=flux.rank, streaming=True, timeout=WAIT)
    texts = []
    while True:
        try:
            texts.append(rpc.get_text())
        except FluxError:
            return texts


def test_size_of_the_ring(engine: Engine) -> None:
    with engine.running("-s1", "-Slog-ring-size=3") as running:
        flux = running.client()
        for number in range(5):
            flux.post("log.append", entry(6, 0, f"line {number}"))
        assert [text.split(" - - ")[1] for text in ring_of(flux)] == ["line 2", "line 3", "line 4"]
        assert flux.rpc("log.stats-get").get(WAIT)["ring-used"] == 3


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("log-level=9", "log-level: Invalid argument"),
        ("log-stderr-mode=zz", "getattr log-stderr-mode: Invalid argument"),
    ],
)
def test_bad_log_attributes(engine: Engine, setting: str, complaint: str) -> None:
    outcome = engine.run("-s1", f"-S{setting}", "true")
    assert outcome.code == 1
    assert [line.split(": ", 1)[1] for line in outcome.log[:2]] == [
        complaint,
        "Error initializing logging: Invalid argument",
    ]


def test_file_of_the_log(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "log"
    outcome = engine.run("-s2", f"-Slog-filename={path}", "-Slog-forward-level=6", "true")
    assert outcome == (0, "", "")
    lines = path.read_text().splitlines()
    for rank in (0, 1):
        assert any(f"broker.info[{rank}]: rc1-none: init->quorum" in line for line in lines)


# -- attributes


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("rank=3", "flux-broker: rank: attribute may not be set on the command line"),
        ("no-such=3", "flux-broker: no-such: unknown attribute"),
        ("hostname=a,hostname=b", "flux-broker: hostname: Operation not permitted"),
        ("broker.quorum-warn=zz", "broker.crit[0]: Error parsing broker.quorum-warn attribute"),
        ("broker.shutdown-timeout=zz", "broker.crit[0]: Error parsing broker.shutdown-timeout attribute"),
    ],
)
def test_bad_attributes(engine: Engine, setting: str, complaint: str) -> None:
    outcome = engine.run("-s1", *(f"-S{one}" for one in setting.split(",")), "true")
    assert outcome.code == 1
    assert outcome.log[0] == complaint


def test_attributes_at_run_time(flux: Flux, engine: Engine) -> None:
    expected: dict[tuple[str, str], tuple[int, str | None]] = {
        ("x", "y"): (errno.ENOENT, "unknown attribute"),
        ("rank", "1"): (errno.EINVAL, "attribute may not be updated"),
        ("log-level", "4"): (errno.EINVAL, "attribute may not be updated"),
        ("log-stderr-level", "9"): (errno.EINVAL, "invalid level"),
    }
    for (name, value), error in expected.items():
        assert error_of(flux, "attr.set", {"name": name, "value": value}) == error
    assert error_of(flux, "attr.set", {"name": "rank", "value": "1", "force": True}) == (errno.EPERM, None)
    if differs(engine, "log-stderr-level is a number"):
        level = {"name": "log-stderr-level", "value": "x"}
        assert error_of(flux, "attr.set", level) == (errno.EINVAL, "invalid level")
    flux.setattr("test.parity", "1")
    assert flux.getattr("test.parity") == "1"
    flux.setattr("test.parity", "2")
    assert flux.getattr("test.parity") == "2"
    flux.rpc("attr.rm", {"name": "test.parity"}).get(WAIT)
    assert error_of(flux, "attr.get", {"name": "test.parity"}) == (errno.ENOENT, None)
    assert error_of(flux, "attr.rm", {"name": "rank"}) == (errno.EPERM, None)
    assert flux.rpc("attr.rm", {"name": "test.parity"}).get(WAIT) == {}
    assert error_of(flux, "attr.get", {"name": "parent-uri"}) == (errno.ENOENT, None)
    assert "parent-uri" in flux.lsattr()


def test_all_attributes_have_their_values(flux: Flux, engine: Engine) -> None:
    zmq = {"tbon.zmqdebug", "tbon.zmq_io_threads", "tbon.child_rcvhwm"}
    fixed = {
        "broker.boot-method": "simple",
        "broker.cleanup-timeout": "none",
        "broker.critical-ranks": "0-1",
        "broker.quorum": "3",
        "broker.quorum-warn": "1m",
        "broker.sd-stop-timeout": "none",
        "broker.shutdown-timeout": "none",
        "broker.shutdown-warn": "1m",
        "broker.unload-builtins-timeout": "1m",
        "instance-level": "0",
        "jobid-path": "/",
        "log-critical-level": "2",
        "log-forward-level": "3",
        "log-level": "7",
        "log-ring-size": "1024",
        "log-stderr-level": "3",
        "log-stderr-mode": "leader",
        "log-syslog-enable": "0",
        "log-syslog-level": "3",
        "rank": "0",
        "size": "3",
        "tbon.connect_timeout": "30s",
        "tbon.descendants": "2",
        "tbon.interface-hint": "default-route",
        "tbon.level": "0",
        "tbon.maxlevel": "2",
        "tbon.prefertcp": "0",
        "tbon.tcp_user_timeout": "20s",
        "tbon.topo": "kary:1",
        "tbon.torpid_max": "30s",
        "tbon.torpid_min": "5s",
        "version": "0.88.0",
    }
    names = set(flux.lsattr())
    assert fixed.keys() <= names
    assert {name: flux.getattr(name) for name in fixed} == fixed
    if not differs(engine, "no ZeroMQ"):
        assert zmq <= names


# -- configuration


def test_configuration_follows_the_leader(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[test]\nvalue = 1\n")
    with engine.running(
        "-s3", "-Stbon.topo=kary:1", "--test-exit-timeout=1s", f"-c{tmp_path}", '--conf=test.other="x"'
    ) as running:
        flux = running.client()
        assert [flux.rpc("config.get", nodeid=rank).get(WAIT) for rank in range(3)] == [
            {"test": {"value": 1, "other": "x"}}
        ] * 3
        follow = flux.rpc("config.get", nodeid=2, streaming=True, timeout=WAIT)
        assert follow.get()["test"]["value"] == 1
        (tmp_path / "a.toml").write_text("[test]\nvalue = 2\n")
        assert flux.rpc("config.reload").get(WAIT) == {}
        assert follow.get() == {"test": {"value": 2}}
        flux.rpc("config.load", {"test": {"value": 3}}).get(WAIT)
        assert follow.get() == {"test": {"value": 3}}
        only = (errno.EINVAL, "configuration can only be changed on rank 0")
        assert error_of(flux, "config.load", {}, 1) == only
        assert error_of(flux, "config.reload", None, 2) == only
        (tmp_path / "a.toml").write_text("nonsense")
        errnum, text = error_of(flux, "config.reload")
        assert errnum in (errno.EINVAL, errno.EPROTO)
        assert (text or "").startswith("Config file error: ")
        refused = "error updating connector-local: error parsing [access] configuration: "
        wrong: dict[str, Any] = {
            "1 object item(s) left unpacked: foo": {"foo": 1},
            "Expected object, got integer": 3,
            "Expected true or false, got integer": {"allow-guest-user": 3},
        }
        for problem, access in wrong.items():
            assert error_of(flux, "config.load", {"access": access}) == (errno.EINVAL, refused + problem)
        torpid = {"tbon": {"torpid_min": "x"}}
        text = "error updating overlay: Config file error parsing tbon.torpid_min"
        assert error_of(flux, "config.load", torpid) == (errno.EINVAL, text)
        assert flux.rpc("config.get").get(WAIT) == {"test": {"value": 3}}
        flux.rpc("config.load", {"tbon": {"torpid_max": "1m"}}).get(WAIT)
        assert flux.getattr("tbon.torpid_max") == "1m"


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("-c/no/such/path", "Config file error: stat: /no/such/path: No such file or directory"),
        ("--conf===", "--conf: value must have a key in KEY=VAL"),
    ],
)
def test_bad_configuration(engine: Engine, option: str, complaint: str) -> None:
    outcome = engine.run("-s1", option, "true")
    assert outcome.code == 1
    assert outcome.log[0].endswith(complaint)
