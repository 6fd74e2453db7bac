"""The command line of `flux-start`, as far as no broker has to run: everything that says no, and ``--noexec``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pytest_flux

ROOT = Path(pytest_flux.__file__).parent.parent
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests/conformance/flux-start-cases.json").read_text())


class Result(NamedTuple):
    """A finished `flux-start`."""

    status: int
    stdout: str
    stderr: str


class Place:
    """A directory to run in, and what lies in it; with a broker installed elsewhere that does not run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "cwd"
        self.directory.mkdir()
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.prefix = directory / "prefix"
        self.broker = self.prefix / "libexec/flux/cmd/flux-broker"
        self.broker.parent.mkdir(parents=True)
        write_script(self.broker, "echo ran")
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "FLUX_EXEC_PATH": str(self.broker.parent),
            # Bytes that are no text must go through as they are.
            "LC_ALL": "C.UTF-8",
        }

    def run(self, *args: str | bytes, **environ: str) -> Result:
        finished = subprocess.run(
            [sys.executable, "-m", "pytest_flux.cli.flux_start", *args],
            cwd=self.directory,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        stdout, stderr = (
            os.fsdecode(output)
            .replace(str(self.broker), "<BROKER>")
            .replace(str(self.prefix), "<PREFIX>")
            .replace(str(self.temporary), "<TMPDIR>")
            for output in (finished.stdout, finished.stderr)
        )
        return Result(finished.returncode, stdout, re.sub(r"<TMPDIR>/flux-\w{6}", "<RUNDIR>", stderr))


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as path:
        place = Place(Path(path))
        yield place
        assert os.listdir(place.temporary) == []


def write_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def needs_no_broker(case: dict[str, Any]) -> bool:
    refused = case["rc"] == 1 and re.fullmatch(r"(flux-start: .*\n)+(Try .*\n)?", case["stderr"])
    return not case["env"] and bool(refused or any(re.match(r"-v?X", word) for word in case["args"]))


@pytest.mark.parametrize("case", [case for case in CASES if needs_no_broker(case)], ids=lambda case: case["id"])
def test_recorded(case: dict[str, Any], place: Place) -> None:
    if case["id"] == "vX-recovery-system" and os.path.exists("/var/lib/flux"):
        pytest.skip("this machine has the state of a system instance")
    if case["setup"]:
        subprocess.run(["sh", "-c", case["setup"]], cwd=place.directory, check=True)
    result = place.run(*case["args"], *case["prog"])
    assert result == (case["rc"], case["stdout"], case["stderr"])
    assert sorted(os.listdir(place.directory)) == case["after"]


def test_enough_recordings_are_replayed() -> None:
    assert sum(map(needs_no_broker, CASES)) >= 40


@pytest.mark.parametrize(
    "args",
    [
        ["-X", "-v", "--", "-a"],
        ["-vX", "-S", "a=1,,b=2,", "x y", ""],
        ["-vvX", "--wrap=,", "-c", ""],
        ["-X", "--verb", "--verbose=0", "-v"],
        ["-vX", "--co=1"],
        ["-vX", "--conf=1", "--config=2", "--b=-q", "--w=w"],
        ["--v", "--no", "--rec=/etc/passwd"],
        ["-vXr/etc/passwd", "x"],
        ["-vX", "--recovery=", "x"],
        ["-s3", "-vX", "--sysconfig", "-cx", "--test-exit=5"],
        ["-s2", "--test-size=1", "-vX", "--test-exit-timeout=", "--test-start-mode=all"],
        ["-vX", "--killer-timeout=3"],
        ["-vX", "--killer-timeout=x"],
        ["-vX", "--test-exit-mode=any"],
        ["-s1", "-vX", "--test-exit-mode="],
        ["-s1", "-vX", "--test-start-mode="],
        ["-vX", "--test-rundir=x", "--test-hosts=y"],
        ["-s1", "-vX", "--test-rundir="],
        ["-s1", "-vX", "--test-hosts="],
        ["-s1", "-vX", "--test-pmi-clique="],
        ["-s1", "-vX", "--test-pmi-clique=[[0,1,1]]"],
        ["-s1", "-X", "--test-exit-timeout=infs"],
        ["-s1", "-vX", "--test-exit-timeout=infinity"],
        ["-s", "-X"],
        ["-s2147483648"],
        ["-vX", "--noexec=1"],
        ["--te"],
        ["--r", "-vX"],
        ["-é"],
        ["-vX", b"\xff\xe9"],
        ["--wrap=/noexist", "x"],
    ],
    ids=lambda args: " ".join(map(os.fsdecode, args)).encode("ascii", "backslashreplace").decode(),
)
@pytest.mark.system_flux
def test_as_the_real_one(args: list[str | bytes], place: Place, system_flux: str) -> None:
    """With a real Flux at hand: what was never recorded. Its broker path is what both shall show."""
    environ = {"PATH": f"{os.path.dirname(system_flux)}:/usr/bin:/bin", "TMPDIR": str(place.temporary)}
    place.environ.pop("FLUX_EXEC_PATH")
    finished = subprocess.run(
        [system_flux, "start", *args],
        cwd=place.directory,
        env={**place.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    stderr = os.fsdecode(finished.stderr).replace(str(place.temporary), "<TMPDIR>")
    expected = (finished.returncode, "", re.sub(r"<TMPDIR>/flux-\w{6}", "<RUNDIR>", stderr))
    assert place.run(*args, **environ) == expected


def test_normal_mode_becomes_the_broker(place: Place) -> None:
    write_script(place.broker, 'echo "$@"; echo $CALI_CONFIG_PROFILE; env | grep -c ^PMI_ ; exit 7')
    result = place.run("-Sa=1", "-v", "--caliper-profile=p", "prog", "arg", LD_PRELOAD="")
    assert result.status == 7
    assert result.stdout.split("\n")[:3] == ["-Sa=1 prog arg", "p", "0"]
    assert result.stderr.startswith("flux-start: <BROKER> -Sa=1 prog arg\n")


def test_the_broker_keeps_the_process_and_gets_default_signals(place: Place) -> None:
    # SIGPIPE, which Python ignores, is 13: bit 12 of the mask.
    write_script(place.broker, "echo $$; grep SigIgn: /proc/$$/status 2>/dev/null || echo SigIgn: 0")
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest_flux.cli.flux_start"],
        env=place.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid, ignored = child.communicate(timeout=60)[0].split("\n")[:2]
    assert int(pid) == child.pid
    assert not int(ignored.split()[1], 16) & 1 << 12


def test_normal_mode_with_a_wrapper(place: Place) -> None:
    assert place.run("--wrap=env,A=b", "-c/x", "p") == (0, "ran\n", "")
    assert place.run("--wrap=echo,hi", "-c/x", "p") == (0, "hi <BROKER> -c/x p\n", "")
    error = "flux-start: error execing broker: No such file or directory\n"
    assert place.run("--wrap=/noexist", "p") == (1, "", error)
    assert place.run("--wrap=no-such-program", "p") == (1, "", error)


def test_a_broker_that_cannot_be_executed(place: Place) -> None:
    place.broker.write_text("#!/badinterp\n")
    error = "flux-start: error execing broker: No such file or directory\n"
    assert place.run("true") == (1, "", error)


def test_a_broker_without_interpreter_is_a_shell_script(place: Place) -> None:
    place.broker.write_text("echo $1\n")
    assert place.run("hi") == (0, "hi\n", "")


def test_no_process_is_started_with_noexec(place: Place) -> None:
    write_script(place.broker, f"touch {place.directory}/ran")
    for args in (["-X"], ["-s2", "-X"], ["-X", f"--wrap=touch,{place.directory}/ran"]):
        assert place.run(*args, "true") == (0, "", "")
    assert os.listdir(place.directory) == []


def test_a_chosen_broker_shows(place: Place) -> None:
    other = write_script(place.directory / "other", "")
    assert place.run("-vX", f"--broker={other}").stderr == f"flux-start: {other}\n"
    assert place.run("-vX", "--broker=other").stderr == "flux-start: ./other\n"
    assert place.run("-vX", "--broker=system").stderr == "flux-start: <BROKER>\n"
    assert place.run("-vX", "--broker=auto").stderr == "flux-start: <BROKER>\n"
    result = place.run("-vX", "--broker=/noexist")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("flux-start: --broker=/noexist: No such file or directory (")


def test_the_embedded_broker_shows(place: Place) -> None:
    expected = f"flux-start: {ROOT}/pytest_flux/libexec/flux-broker p\n"
    assert place.run("-vX", "--broker=embedded", "p") == (0, "", expected)
    assert place.run("-vX", "p", FLUX_EXEC_PATH="") == (0, "", expected)


def test_no_system_broker(place: Place) -> None:
    result = place.run("-X", "--broker=system", FLUX_EXEC_PATH="/x")
    assert result.status == 1
    assert result.stderr.startswith("flux-start: Could not locate broker in FLUX_EXEC_PATH_PREPEND (not set), ")


def test_rundir_is_made_and_removed(place: Place) -> None:
    expected = "flux-start: 0: <BROKER> --setattr=rundir=r\n"
    assert place.run("-s1", "-vX", "--rundir=r") == (0, "", expected)
    assert os.listdir(place.directory) == []
    (place.directory / "r").mkdir(mode=0o700)
    assert place.run("-s1", "-vX", "--rundir=r") == (0, "", expected)
    assert place.run("-s1", "-vX", "--test-rundir=r") == (0, "", expected)
    assert os.listdir(place.directory) == ["r"]
    assert place.run("-s1", "-vX", "--test-rundir=r", "--test-rundir-cleanup") == (0, "", expected)
    assert os.listdir(place.directory) == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--rundir=r"], "--rundir only works with --test-size"),
        (["-s1", "--rundir=a/b"], "a/b: No such file or directory"),
        (["-s1", "--rundir=a", "--test-rundir=a"], "--rundir and --test-rundir exclude each other"),
    ],
)
def test_rundir_refused(args: list[str], text: str, place: Place) -> None:
    assert place.run(*args) == (1, "", f"flux-start: {text}\n")


def test_a_directory_that_is_gone(place: Place) -> None:
    text = "flux-start: Unable to get current working directory: No such file or directory\n"
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    finished = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "pytest_flux.cli.flux_start", "-X"],
        cwd=place.directory,
        env=place.environ,
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stderr) == (1, text)


def test_version(place: Place) -> None:
    assert place.run("--version", "-s1") == (0, f"flux-start {pytest_flux.__version__}\n", "")
    # It takes no abbreviation away from Flux's own options.
    assert place.run("--v", "-X") == (0, "", "flux-start: <BROKER>\n")


def test_help(place: Place) -> None:
    status, stdout, stderr = place.run("--help", COLUMNS="80")
    assert (status, stdout) == (0, "")
    assert stderr.startswith("Usage: flux-start [OPTIONS] command ...\n  -h, --help  ")
    assert "killer-timeout" not in stderr
    for name in ("-s, --test-size=N ", "    --rundir=DIR ", "    --broker=auto|system|embedded|PATH\n"):
        assert f"\n  {name}" in stderr
    assert max(map(len, stderr.split("\n"))) <= 80


def test_closed_output(place: Place) -> None:
    script = 'exec "$@" 2>&-'
    finished = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "pytest_flux.cli.flux_start", "-vX"],
        env=place.environ,
    )
    assert finished.returncode == 0
