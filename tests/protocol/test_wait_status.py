"""Wait statuses and what they mean."""

from __future__ import annotations

import os
import signal

import pytest

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.wait_status import describe_failure, exit_code, signal_text


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (0, 0, ""),
        (768, 3, "task(s) exited with exit code 3"),
        (32768, 128, "task(s) exited with exit code 128"),
        (36608, 143, "task(s) Terminated"),
        (36352, 142, "task(s) Alarm clock"),
        (65280, 255, "task(s) Unknown signal 127"),
        (9, 137, "job shell Killed"),
        (9 | 0x80, 137, "job shell Killed"),
    ],
)
def test_exit_codes(status: int, code: int, text: str) -> None:
    """The texts are flux-core's, for recorded statuses; 0x80 says that there was a core dump."""
    assert exit_code(status) == code
    assert describe_failure(status) == text


@pytest.mark.parametrize("status", [0x137F, 0xFFFF])
def test_a_process_that_was_stopped_or_continued_has_not_ended(status: int) -> None:
    for function in (exit_code, describe_failure):
        with pytest.raises(ProtocolError, match=r"unexpected wait\(2\) status"):
            function(status)


@pytest.mark.parametrize(("ends_with", "code"), [(0, 0), (7, 7), (255, 255), (signal.SIGKILL, 137)])
def test_real_processes(ends_with: int, code: int) -> None:
    pid = os.fork()
    if pid == 0:
        if isinstance(ends_with, signal.Signals):
            os.kill(os.getpid(), ends_with)
        os._exit(ends_with)
    assert exit_code(os.waitpid(pid, 0)[1]) == code


def test_signals() -> None:
    assert signal_text(signal.SIGKILL) == "Killed"
    assert signal_text(250) == "Unknown signal 250"
    assert signal_text(-1) == "Unknown signal -1"
