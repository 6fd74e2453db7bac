"""Commands whose behaviour differs from flux-core's, or that need a whole instance of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_flux.cli.flux import main

_START = (sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded", "-s1")
_WAIT = 60


def _start(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_START, *words],
        cwd=cwd,
        env={**os.environ, "FLUX_URI_RESOLVE_LOCAL": "t"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_WAIT,
        check=False,
    )


def test_an_unused_statedir_can_be_recovered(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    assert _start(f"-Sstatedir={state}", "true", cwd=tmp_path).returncode == 0
    done = _start(f"--recovery={state}", "flux", "jobs", "-an", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_empty_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "content.sqlite").touch()
    done = _start(f"-Sstatedir={tmp_path}", "true", cwd=tmp_path)
    assert done.returncode == 0
    assert "content.sqlite is empty: what it held is lost" in done.stderr


def test_an_instance_that_is_a_job_is_shut_down_by_its_id(tmp_path: Path) -> None:
    script = """
        id=$(flux alloc --bg -n1) && flux shutdown --quiet $id && flux job wait-event $id clean >/dev/null
        flux jobs -no '{status}' $id
        flux shutdown $id
    """
    done = _start("sh", "-c", script, cwd=tmp_path)
    assert done.stdout == "COMPLETED\n"
    assert "flux-shutdown: failed to resolve target " in done.stderr.replace("flux: ", "flux-shutdown: ")


def test_startlog(tmp_path: Path) -> None:
    script = """
        flux startlog; flux startlog --post-start-event; flux startlog --post-finish-event
        flux startlog --post-start-event; flux startlog --post-start-event
        flux startlog -v | sed -E 's/[0-9-]+ [0-9:]+ - |[0-9.]+m?s/T/g'
        flux startlog --check --quiet; echo $?
    """
    done = _start("sh", "-c", script, cwd=tmp_path)
    assert "Error fetching eventlog: No such file or directory" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in lines] == ["0.88.0", "0.88.0", "0.88.0", "1"]
    assert [words[1] for words in lines[1:3]] == ["Tcrashed", "Trunning"]


def test_cron_waits_for_the_sync_event(tmp_path: Path) -> None:
    script = """
        flux cron sync my.beat 2>/dev/null; flux cron event my.cause echo done >out; flux event pub my.cause
        test "$(flux cron dump -k stats.deferred 1)" = 1 && flux event pub my.beat
        until test "$(flux cron dump -k stats.success 1)" = 1; do :; done
        flux cron sync -d; flux cron interval -c 1 -o timeout=0.1 0.01 sleep inf
        until test "$(flux cron dump -k stats.failure 2)" = 1; do :; done
        flux cron list | awk '{print $3, $4, $NF}'
        flux module remove cron; flux cron list >/dev/null; flux module load cron sync=a.b sync_epsilon=1s
        flux cron sync; flux cron list | wc -l
    """
    done = _start("sh", "-c", script, cwd=tmp_path)
    assert done.stdout.splitlines() == ["STATE #RUNS STATUS", "Active 1 Success", "Stopped 1/1 Timeout", "1"]
    assert "flux-cron list: " in done.stderr
    assert 'sync: sync to event "a.b" epsilon=1.000s.' in done.stderr


def test_python(tmp_path: Path) -> None:
    program = "import sys; print(sys.argv[1:])"
    done = _start("flux", "python", "-c", program, "--x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "['--x']\n")


def test_pstree_counts(tmp_path: Path) -> None:
    script = "for i in 1 2 3; do flux run --job-name=j$i true; done; flux pstree -a -c 2"
    assert _start("sh", "-c", script, cwd=tmp_path).stdout == ".\n├── j3:CD\n└── j2:CD\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["keygen"], "only flux-core makes CURVE certificates"),
        (["filemap", "map", "x"], "Use flux-archive(1) instead."),
        (["config", "builtin", "shell_path"], "shell_path is a part of flux-core"),
        (["config", "builtin", "nope"], "nope is invalid"),
    ],
)
def test_refusals(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert text in capsys.readouterr().err


def test_builtin_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "builtin", "exec_path"]) == 0
    assert os.path.isdir(capsys.readouterr().out.strip())
