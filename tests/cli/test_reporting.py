"""``flux-start --report``: the command runs as ever, and afterwards there is a page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.test_page import data_of


def flux_start(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest_flux.cli.flux_start", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=directory)


def test_page_of_a_command(engine: str, tmp_path: Path) -> None:
    command = "flux run -N2 hostname >out; exit 3"
    done = flux_start(tmp_path, "-s2", f"--broker={engine}", "--report=page.html", command)
    assert done.returncode == 3
    assert len((tmp_path / "out").read_text().splitlines()) == 2
    (instance,) = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))["instances"]
    assert instance["notes"] == []
    assert [broker["status"] for broker in instance["overlay"]] == ["full", "full"]
    assert [job["result"] for job in instance["jobs"]] == ["COMPLETED"]
    assert {line[1] for line in instance["log"]} == {0, 1}
    assert instance["facts"]["exit code"] == 3
    assert command in instance["facts"]["command"]


def test_hangup_reaches_the_command(tmp_path: Path) -> None:
    """SIGTERM ends the instance in order: its command gets SIGHUP, and the page is written before the end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    argv = [sys.executable, "-m", "pytest_flux.cli.flux_start", "-s2", "--broker=embedded", "--report=page.html"]
    program = f"trap 'echo hung up >out; exit 7' HUP; flux submit sleep inf >{fifo}; while :; do sleep 0.05; done"
    with subprocess.Popen([*argv, program], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        assert fifo.read_text().startswith("ƒ")
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "out").read_text() == "hung up\n"
    (instance,) = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))["instances"]
    assert instance["facts"]["exit code"] == 7
    assert [job["name"] for job in instance["jobs"]] == ["sleep"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("no/page.html", "cannot write into"), (".", "is a directory")],
)
def test_path_is_checked_before_the_start(tmp_path: Path, path: str, reason: str) -> None:
    done = flux_start(tmp_path, "-s1", "--broker=embedded", f"--report={path}", "touch", "ran")
    assert done.returncode == 1
    assert done.stderr.startswith(f"flux-start: --report={path}: {reason}")
    assert not (tmp_path / "ran").exists()


def test_command_that_is_missing(tmp_path: Path) -> None:
    done = flux_start(tmp_path, "-s1", "--broker=embedded", "--report=page.html", "no-such-program", "x")
    assert done.returncode == 127
    assert "flux-start: no-such-program: No such file or directory" in done.stderr
    assert (tmp_path / "page.html").exists()
