"""Ends of an instance: by request, by signals to its brokers, by phases that are hung up."""

from __future__ import annotations

import errno
import signal

import pytest

from pytest_flux.protocol.errors import FluxError
from tests.parity.instances import Engine

WAIT = 15.0
PID = "$(flux getattr broker.pid)"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGALRM])
def test_signal_to_rank_0_hangs_the_initial_program_up(engine: Engine, signum: int) -> None:
    with engine.running("-s2", "-o,-v") as running:
        running.kill(0, signum)
        outcome = running.finish()
    assert outcome.code == 129
    assert f"<6>broker.info[0]: signal {int(signum)}" in outcome.log
    assert "<3>broker.err[0]: rc2.0: sh -c echo ready; exec cat Hangup (rc=129) <TIME>" in outcome.log
    assert "<6>broker.info[0]: rc2-fail: run->cleanup <TIME>" in outcome.log
    assert "<6>broker.info[1]: shutdown: run->cleanup <TIME>" in outcome.log


def test_initial_program_that_ends_well_after_a_hangup(engine: Engine) -> None:
    program = ("sh", "-c", "trap '' HUP; echo ready; exec cat")
    with engine.running("-s1", program=program) as running:
        running.kill(0, signal.SIGTERM)
        running.kill(0, signal.SIGTERM)
        outcome = running.stop()
    assert outcome.code == 1
    line = "broker.err[0]: rc2.0: sh -c trap '' HUP; echo ready; exec cat aborted after exit with rc=0 (rc=1) <TIME>"
    assert line in outcome.log


def test_signal_to_another_rank_ends_that_rank(engine: Engine) -> None:
    with engine.running("-s2", "-o,-v") as running:
        online = running.client().rpc("groups.get", {"name": "broker.online"}, streaming=True, timeout=WAIT)
        assert online.get() == {"members": "0-1"}
        running.kill(1, signal.SIGTERM)
        assert online.get() == {"members": "0"}
        for line in ("signal 15", "shutdown: run->cleanup", "rc3-none: finalize->goodbye"):
            running.wait_for(rf"broker\.info\[1\]: {line}")
        running.wait_for(r"broker\.err\[0\]: dead to Flux: \S+ \(rank 1\)")
        health = running.client().rpc("overlay.health").get(WAIT)
        assert health["status"] == "partial"
        assert (health["children"][0]["status"], health["children"][0]["error"]) == (
            "offline",
            "administrative shutdown",
        )
        with pytest.raises(FluxError) as caught:
            running.client().rpc("broker.ping", {}, nodeid=1).get(WAIT)
        assert caught.value.errnum == errno.EHOSTUNREACH
        assert running.stop().code == 0


def test_signal_while_rc1_runs(engine: Engine) -> None:
    outcome = engine.run("-s2", "-o,-v", f"-Sbroker.rc1_path=kill -TERM {PID}; exec sleep 1000", "true")
    assert outcome.code == 129
    assert "<6>broker.info[0]: rc1-fail: init->shutdown <TIME>" in outcome.log
    assert "<6>broker.info[1]: parent-fail: join->shutdown <TIME>" in outcome.log


def test_signal_while_rc3_runs(engine: Engine) -> None:
    outcome = engine.run("-s1", "-o,-v", f"-Sbroker.rc3_path=kill -TERM {PID}; exec sleep 1000", "true")
    assert outcome.code == 129
    assert "<6>broker.info[0]: rc3-fail: finalize->goodbye <TIME>" in outcome.log


def test_signal_while_there_is_no_quorum(engine: Engine) -> None:
    kill = f"(sleep 0.2; kill -TERM {PID}) </dev/null >/dev/null 2>&1 &"
    rc1 = f"test $(flux getattr rank) = 0 || exec sleep 0.6; {kill}"
    outcome = engine.run("-s2", "-o,-v", f"-Sbroker.rc1_path={rc1}", "true")
    assert outcome.code == 0
    assert "<6>broker.info[0]: quorum-fail: quorum->shutdown <TIME>" in outcome.log
    assert "<6>broker.info[1]: quorum-fail: quorum->shutdown <TIME>" in outcome.log


def test_signal_without_initial_program(engine: Engine) -> None:
    with engine.running("-s2", "-Sbroker.rc2_none", "-o,-v", program=(), wait=False) as running:
        running.wait_for(r"quorum-full: quorum->run")
        running.kill(0, signal.SIGTERM)
        outcome = running.finish()
    assert outcome.code == 0
    assert "<6>broker.info[0]: shutdown: run->cleanup <TIME>" in outcome.log


def test_cleanup_that_takes_too_long(engine: Engine) -> None:
    """A signal hurries the cleanup, if there is a limit."""
    program = ("sh", "-c", "flux getattr rank >/dev/null; echo ready; exec cat")
    with engine.running("-s1", "-Sbroker.cleanup-timeout=0.2s", "-o,-v", program=program) as running:
        running.client().rpc("runat.push", {"name": "cleanup", "commands": ["exec sleep 1000"]}).get(WAIT)
        running.kill(0, signal.SIGTERM)
        outcome = running.finish()
    assert outcome.code == 129
    assert "<3>broker.err[0]: cleanup.0: exec sleep 1000 Hangup (rc=129) <TIME>" in outcome.log


def test_second_signal_hangs_cleanup_up(engine: Engine) -> None:
    with engine.running("-s1", "-o,-v") as running:
        running.client().rpc("runat.push", {"name": "cleanup", "commands": ["exec sleep 1000"]}).get(WAIT)
        running.kill(0, signal.SIGTERM)
        running.wait_for(r"rc2-fail: run->cleanup")
        running.kill(0, signal.SIGTERM)
        outcome = running.finish()
    assert outcome.code == 129
    assert "<3>broker.err[0]: cleanup.0: exec sleep 1000 Hangup (rc=129) <TIME>" in outcome.log


def test_user_signals_are_no_end(engine: Engine) -> None:
    with engine.running("-s1", "-o,-v") as running:
        running.kill(0, signal.SIGUSR1)
        running.wait_for(r"broker\.info\[0\]: signal 10$")
        assert running.client().rpc("state-machine.get").get(WAIT)["state"] == "run"
        assert running.stop().code == 0


# -- by request


@pytest.mark.parametrize("options", ["", "--background", "--quiet", "--verbose", "--skip-gc", "-y"])
def test_flux_shutdown_hangs_the_initial_program_up(engine: Engine, options: str) -> None:
    outcome = engine.run("-s1", "sh", "-c", f"flux shutdown {options}; sleep 1000")
    assert outcome.code == 129
    assert outcome.log[0] == f"broker.err[0]: rc2.0: sh -c flux shutdown {options}; sleep 1000 Hangup (rc=129) <TIME>"


def test_shutdown_tells_what_happens(engine: Engine) -> None:
    with engine.running(
        "-s2", "-Sbroker.rc2_none", "-Sbroker.rc3_path=echo bad >&2", program=(), wait=False
    ) as running:
        while True:
            try:
                flux = running.client()
                flux.rpc("state-machine.wait").get(WAIT)
                break
            except FileNotFoundError:
                continue
        shutdown = flux.rpc("shutdown.start", {"loglevel": 6}, streaming=True, timeout=WAIT)
        lines = [answer["log"] for answer in shutdown]
        # It is told to the end; the broker waits for who is told.
        assert any(line.startswith("broker.info[0]: cleanup-none: cleanup->shutdown") for line in lines)
        assert "broker.err[1]: rc3.0: bad\n" in lines or "broker.err[0]: rc3.0: bad\n" in lines
        assert lines[-1].startswith("broker.info[0]: rc3-success: finalize->goodbye")
        outcome = running.finish()
    assert outcome.code == 0


def test_shutdown_that_cannot_be(engine: Engine) -> None:
    rc1 = "flux shutdown; echo $?"
    outcome = engine.run("-s2", "-o,-v", f"-Sbroker.rc1_path={rc1}", "true")
    assert "<3>broker.err[0]: rc1.0: flux-shutdown: shutdown cannot be initiated in state init" in outcome.log
    assert "<6>broker.info[0]: rc1.0: 1" in outcome.log


def test_shutdown_twice(engine: Engine) -> None:
    program = ("sh", "-c", "trap '' HUP; echo ready; exec cat")
    with engine.running("-s1", program=program) as running:
        first = running.client().rpc("shutdown.start", {"loglevel": 3}, streaming=True, timeout=WAIT)
        with pytest.raises(FluxError) as caught:
            running.client().rpc("shutdown.start", {"loglevel": 3}).get(WAIT)
        assert (caught.value.errnum, caught.value.text) == (errno.EINVAL, "shutdown is already in progress")
        running.stdin.close()
        running.process.stdin = None
        assert len(list(first)) == 1
        assert running.finish().code == 1
