"""Sessions that are interrupted, at any place, in any way: in order if that is possible, and with nothing left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.launcher.sessions import PROMPT, Session, Start, start

__all__ = ["start"]

FOREVER = "exec tail -f /dev/null"
# A process that has left group, session and parent. The broker waits until it has.
DAEMON = (
    "mkfifo fifo-$PMI_RANK;(setsid sh -c 'echo > fifo-'$PMI_RANK'; exec tail -f /dev/null' &);read x < fifo-$PMI_RANK"
)


def wait_for_brokers(session: Session, size: int) -> None:
    for _ in range(size):
        session.stdout.line()


@pytest.mark.parametrize("victim", ["front", "supervisor"])
def test_nothing_survives_when_a_part_is_killed(start: Start, victim: str) -> None:
    session = start("-s3", broker=f"{DAEMON}; echo ready; {FOREVER}")
    wait_for_brokers(session, 3)
    supervisor = session.supervisor
    begin = time.monotonic()
    os.kill(session.process.pid if victim == "front" else supervisor, signal.SIGKILL)
    ended = session.end(PROMPT)
    assert time.monotonic() - begin < PROMPT
    if victim == "front":
        assert ended == (-signal.SIGKILL, "", "")
    else:
        assert ended.code == 137
        assert ended.stderr == f"flux-start: supervisor (pid {supervisor}) Killed: killed all brokers\n"


def test_nothing_survives_when_the_group_is_killed(start: Start) -> None:
    # As test runners do. The supervisor is not in the group, and cleans up.
    session = start("-s2", broker=f"{DAEMON}; echo ready; {FOREVER}", new_group=True)
    wait_for_brokers(session, 2)
    os.killpg(session.process.pid, signal.SIGKILL)
    session.end(PROMPT)


def test_nothing_survives_the_end_of_the_lifeline(start: Start) -> None:
    reader, writer = os.pipe()
    code = (
        "from pytest_flux.launcher.session import run_session; from pytest_flux.launcher.spec import LaunchSpec;"
        "from pytest_flux.launcher.engine import Engine; import sys;"
        f"sys.exit(run_session(LaunchSpec(size=2), Engine('system', './b', {{}}), lifeline={reader}))"
    )
    (start.directory / "b").write_text(f"#!/bin/sh\necho ready; {FOREVER}\n")
    (start.directory / "b").chmod(0o755)
    session = start.command([sys.executable, "-c", code], {}, pass_fds=[reader])
    os.close(reader)
    wait_for_brokers(session, 2)
    os.close(writer)
    assert session.end(PROMPT).code == 137


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_passed_to_rank_0_which_ends_the_others(start: Start, signum: int) -> None:
    # Other ranks than 0 wait for rank 0's word.
    broker = (
        "mkfifo fifo-$PMI_RANK\n"
        "if [ $PMI_RANK = 0 ]; then\n"
        '  for n in TERM INT HUP; do trap "echo SIG$n; echo > fifo-1; exit 9" $n; done\n'
        "fi\n"
        "echo ready; while ! read x < fifo-$PMI_RANK; do :; done; echo $PMI_RANK ended"
    )
    session = start("-s2", broker=broker)
    wait_for_brokers(session, 2)
    session.signal(signum)
    ended = session.end()
    assert ended.stdout == f"{signal.Signals(signum).name}\n1 ended\n"
    assert ended.code == 128 + signum
    assert ended.stderr.endswith("exited with rc=9\n")


def test_others_are_signalled_when_rank_0_dies_of_it(start: Start) -> None:
    session = start("-s3", broker=f"echo ready; {FOREVER}")
    wait_for_brokers(session, 3)
    session.signal(signal.SIGTERM)
    ended = session.end()
    assert ended.code == 143
    assert ended.stderr.count("Terminated\n") == 3


def test_second_signal_kills(start: Start) -> None:
    session = start("-s2", broker="trap 'echo caught' TERM; echo ready; while :; do sleep 0.01; done")
    wait_for_brokers(session, 2)
    session.signal(signal.SIGTERM)
    assert session.stdout.line() == "caught"
    # Not the same signal: that would be taken for a copy if it came at once.
    session.signal(signal.SIGINT)
    ended = session.end(PROMPT)
    assert ended.code == 143
    assert ended.stderr.startswith("flux-start: SIGINT while stopping: killed rank 0-1\n")


def test_copy_of_a_signal_is_not_a_second_one(start: Start) -> None:
    session = start("-s1", broker="trap 'echo caught; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
    wait_for_brokers(session, 1)
    for _ in range(3):
        session.signal(signal.SIGTERM)
    ended = session.end()
    assert ended == (143, "caught\n", "")


def test_brokers_that_do_not_end_are_killed_after_the_exit_timeout(start: Start) -> None:
    broker = f"trap '' TERM; {DAEMON}; echo ready; {FOREVER}"
    session = start("-s2", "--test-exit-timeout=0.2s", broker=broker)
    wait_for_brokers(session, 2)
    session.signal(signal.SIGTERM)
    ended = session.end(PROMPT)
    assert ended.code == 143
    assert ended.stderr.startswith("flux-start: No broker exited in time after SIGTERM: killed rank 0-1\n")


def test_signal_before_anything_is_started_prevents_it(start: Start) -> None:
    session = start("-s1", broker="echo started")
    # Stopped at once, it gets the signal when it continues, whatever it has got to do by then.
    session.signal(signal.SIGTERM)
    assert session.end().code in (-signal.SIGTERM, 143)


def test_nohup_is_respected(start: Start) -> None:
    os.mkfifo(start.directory / "fifo")

    def ignore_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    session = start("-s1", broker="echo ready; read x < fifo", before=ignore_hangup)
    wait_for_brokers(session, 1)
    session.signal(signal.SIGHUP)
    (start.directory / "fifo").write_text("\n")
    assert session.end().code == 0


def test_supervisor_that_does_not_answer_is_killed(start: Start) -> None:
    session = start("-s1", broker=f"echo ready; {FOREVER}")
    wait_for_brokers(session, 1)
    os.kill(session.supervisor, signal.SIGSTOP)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        session.signal(signum)
    assert session.end(PROMPT).code == 137


def find_broker(session: Session, rank: int) -> int | None:
    """The process id of a broker that is being started; None if the session ends before."""
    while session.process.poll() is None:
        with contextlib.suppress(psutil.Error, ValueError):
            brokers = session.brokers()
            if len(brokers) > rank:
                return brokers[rank]
    return None


def kill_at_random(session: Session, signum: int, victim: str) -> None:
    """Send a signal at a random moment of the half second that a session takes, and wait for its end."""
    target = session.process.pid if victim == "front" else find_broker(session, int(victim))
    with contextlib.suppress(subprocess.TimeoutExpired):
        session.process.wait(random.random() * 0.7)
    if target is not None and session.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signum)
    session.end()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("victim", ["front", "0", "1"])
def test_nothing_is_left_whenever_and_whoever_is_killed(
    start: Start, engine: str, signum: signal.Signals, victim: str
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    random.seed(seed)
    for _ in range(11):
        # rc1 and rc3 of a real Flux would take most of the time.
        settings = ["-Sbroker.rc1_path=", "-Sbroker.rc3_path=", "--test-exit-timeout=1s"]
        command = [sys.executable, "-m", "pytest_flux.cli.flux_start", f"--broker={engine}", "-s3", *settings]
        session = start.command([*command, "sleep", "0.2"], {})
        kill_at_random(session, signum, victim)
