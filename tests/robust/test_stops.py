"""Orderly stops that jobs or suspended brokers would hold up. If one takes too long, brokers are killed: an error."""

from __future__ import annotations

import os
import signal

import pytest

import pytest_flux
from tests.plugin.conftest import Run, run

__all__ = ["run"]


@pytest.mark.parametrize(
    "script",
    [
        "setsid sleep 1000 & echo",
        "trap '' TERM; while :; do sleep 1; done",
        "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000' &); exec sleep 1000",
        "while :; do (setsid sleep 1000 &); sleep 0.01; done",
        "work() { sleep 0.01; work & }; work; exec sleep 1000",
    ],
)
def test_job_does_not_hold_up_a_stop(script: str) -> None:
    with pytest_flux.start(size=2, broker="embedded") as flux:
        flux.submit(["sh", "-c", script]).wait_event("start")


@pytest.mark.parametrize("rank", [0, 1])
def test_suspended_broker_is_stopped_in_order(rank: int) -> None:
    with pytest_flux.start(size=2, broker="embedded") as flux:
        flux.submit(["sleep", "1000"]).wait_event("start")
        os.kill(flux.brokers[rank].pid, signal.SIGSTOP)


def test_report_does_not_ask_a_suspended_rank_0(run: Run) -> None:
    result = run(
        """
        import os, signal

        def test_it(flux_instance, record_property):
            os.kill(flux_instance.brokers[0].pid, signal.SIGSTOP)
            assert flux_instance.is_suspended
            raise KeyError
        """,
        "--junitxml=out.xml",
        "--flux-dump=failed",
    )
    result.assert_outcomes(failed=1)
    assert "rank 0 is suspended" in (result_path := run.__self__.path / "out.xml").read_text(), result_path
    result.stdout.fnmatch_lines(["*rank 0 does not answer: *it is suspended"])
