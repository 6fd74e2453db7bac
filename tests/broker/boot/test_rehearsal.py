"""Two brokers rehearse in this process, and leave nothing of it."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from pytest_flux.broker.boot.rehearsal import rehearse
from pytest_flux.broker.overlay.overlay import Overlay


def test_instance_comes_up_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    environ, handlers = dict(os.environ), [signal.getsignal(number) for number in signal.valid_signals()]
    descriptors = os.listdir("/dev/fd")
    # Not pytest's directory: its path is too long for sockets.
    with tempfile.TemporaryDirectory() as rundir:
        assert rehearse(rundir)
        assert os.listdir(rundir) == []
    assert os.listdir("/dev/fd") == descriptors
    assert dict(os.environ) == environ
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
    assert capfd.readouterr() == ("", "")


def test_failure_is_silent_and_quick(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **_options: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Overlay, "bind", fail)
    with tempfile.TemporaryDirectory() as rundir:
        started = time.monotonic()
        assert not rehearse(rundir)
        assert time.monotonic() - started < 0.4
        assert os.listdir(rundir) == []
    assert capfd.readouterr() == ("", "")


def test_long_path_is_no_place_to_rehearse(tmp_path: Path) -> None:
    rundir = tmp_path / ("long" * 30)
    rundir.mkdir()
    assert not rehearse(str(rundir))
    assert list(rundir.iterdir()) == []


def test_missing_directory_is_no_place_to_rehearse(tmp_path: Path) -> None:
    assert not rehearse(str(tmp_path / "missing"))
