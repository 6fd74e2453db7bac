"""What users do with jobs: run, submit, attach, cancel, wait."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.jobs.commands import Commands


def test_run_on_every_node(flux: Commands) -> None:
    result = flux("run", "-N4", "-l", "hostname")
    assert result.code == 0
    assert sorted(result.out.splitlines()) == [f"{rank}: {os.uname().nodename}" for rank in range(4)]


def test_copies_and_the_highest_exit_code(flux: Commands) -> None:
    result = flux("submit", "--cc=1-20", "--wait", "sh", "-c", "exit $(({cc}%3==0))")
    assert (result.code, result.err) == (1, "")
    assert len(result.out.splitlines()) == 20
    assert flux("submit", "--cc=1-3", "--quiet", "--wait", "true").shown == (0, "", "")
    watched = flux("submit", "--bcc=5,7", "--watch", "sh", "-c", "echo {cc}$FLUX_JOB_CC")
    assert sorted(watched.out.splitlines())[:2] == ["5", "7"]
    assert flux("run", "--env=FLUX_JOB_CC=no", "printenv", "FLUX_JOB_CC").out == "no\n"


def test_exit_codes(flux: Commands) -> None:
    assert flux("run", "sh", "-c", "exit 3").shown == (3, "", "flux-job: task(s) exited with exit code 3\n")
    killed = flux("run", "sh", "-c", "kill -9 $$")
    assert (killed.code, "flux-job: task(s) Killed\n") == (137, killed.err[-25:])
    missing = flux("run", "nosuchprogram")
    assert missing.code == 127
    assert "No such file or directory" in missing.err
    assert flux("run", "-N99", "true").code == 1


def test_binary_output_and_input(flux: Commands) -> None:
    job = flux.id("submit", "printf", r"\377\000x")
    assert flux.raw("job", "attach", job) == (0, b"\xff\0x", b"")
    data = bytes(range(256)) * 300
    assert flux.raw("run", "cat", stdin=data) == (0, data, b"")
    assert flux("run", "-n2", "-l", "--input=1", "cat", stdin="a\n").out == "1: a\n"


def test_files(flux: Commands) -> None:
    Path(flux.directory, "in").write_text("text\n")
    assert flux("run", "--input=in", "--output={{id}}.out", "cat").code == 0
    (output,) = Path(flux.directory).glob("*.out")
    assert output.read_text() == "text\n"
    assert flux("run", "--cwd=/", "pwd").out == "/\n"
    assert flux("run", "--add-file=name=in", "sh", "-c", "cat $FLUX_JOB_TMPDIR/name").out == "text\n"


def test_time_limit(flux: Commands) -> None:
    result = flux("run", "-t", "0.3s", "sleep", "60")
    assert result.code == 142
    assert "type=timeout severity=0 resource allocation expired" in result.err


def test_cancel(flux: Commands) -> None:
    job = flux.id("submit", "sleep", "60")
    assert flux("job", "wait-event", "-q", job, "start").code == 0
    assert flux("cancel", "-m", "not needed", job).shown == (0, "", "")
    result = flux("job", "attach", job)
    assert result.code == 143
    assert f"job.exception {job} type=cancel severity=0 not needed\n" in result.err
    assert flux("jobs", "-no", "{status} {inactive_reason}", job).out == "CANCELED Canceled: not needed\n"


def test_dependencies(flux: Commands) -> None:
    first = flux.id("submit", "sleep", "60")
    second = flux.id("submit", f"--dependency=afterany:{first}", "echo", "second")
    assert flux("jobs", "-no", "{state} {dependencies}", second).out == f"DEPEND after-finish={first}\n"
    assert flux("cancel", first).code == 0
    assert flux("job", "attach", second).out == "second\n"
    assert flux("submit", "--dependency=afterok", "true").code == 1


def test_drained_node_is_not_used(flux: Commands) -> None:
    assert flux("resource", "drain", "1", "broken").shown == (0, "", "")
    try:
        ranks = flux("run", "-N3", "sh", "-c", "echo ${FLUX_URI##*-}").out.split()
        assert sorted(ranks) == ["0", "2", "3"]
        assert flux("resource", "drain", "-no", "{ranks} {state} {reason}").out == "1 drained broken\n"
        assert flux("resource", "drain", "1", "again").code == 1
    finally:
        assert flux("resource", "undrain", "1").code == 0
    assert flux("resource", "status", "-no", "{state} {nnodes}").out == "avail 4\n"


def test_signals_are_passed_on(flux: Commands) -> None:
    with flux.popen(
        "run", "sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=30)[0] == b"got\n"
        assert process.returncode == 5


def test_two_interrupts_cancel(flux: Commands) -> None:
    with flux.popen("run", "sh", "-c", "echo ready; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"flux-job: one more ctrl-C within 2s to cancel or ctrl-Z to detach\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert b"type=cancel severity=0 interrupted by ctrl-C" in err
        assert process.returncode == 143


def test_bulksubmit(flux: Commands) -> None:
    result = flux("bulksubmit", "--quiet", "--watch", "--sep=none", "echo", "<{}>", stdin="a b\nc")
    assert sorted(result.out.splitlines()) == ["<a>", "<b>", "<c>"]
    words = ("--dry-run", "echo", "{0./%}", "{1}", "{seq}", ":::", "x/a.c", "b", ":::", "1", "2")
    assert flux("bulksubmit", *words).out.splitlines() == [
        "bulksubmit: submit echo a 1 0",
        "bulksubmit: submit echo a 2 1",
        "bulksubmit: submit echo b 1 2",
        "bulksubmit: submit echo b 2 3",
    ]


def test_batch(flux: Commands) -> None:
    script = (
        "#!/bin/sh\n# flux: -N1 --job-name=named\n# flux: --output=out\nflux getattr size\nflux run echo nested\n"
    )
    Path(flux.directory, "script").write_text(script)
    job = flux.id("batch", "script")
    assert flux("job", "status", job).code == 0
    assert Path(flux.directory, "out").read_text() == "1\nnested\n"
    assert flux("jobs", "-no", "{name}", job).out == "named\n"


def test_alloc_and_proxy(flux: Commands) -> None:
    assert flux("alloc", "-N2", "flux", "getattr", "size").out == "2\n"
    job = flux.id("alloc", "--bg", "-N1")
    try:
        assert flux("uri", job).out.startswith("ssh://")
        assert flux("proxy", job, "flux run echo inside").out == "inside\n"
        assert flux("uri", "--local", job).out.startswith("local:///")
        assert "inside" not in flux("jobs", "-R", "-no", "{name}").out
        assert flux("jobs", "-Ra", "-no", "{name}").out.endswith("\necho\n")
    finally:
        assert flux("cancel", job).code == 0
        assert flux("job", "wait-event", "-q", job, "clean").code == 0


def test_watch(flux: Commands) -> None:
    job = flux.id("submit", "sh", "-c", "echo out; exit 4")
    assert flux("watch", job).shown == (4, "out\n", "")
    assert flux("watch", "-l", job).out == f"{job}: 0: out\n"


def test_search(flux: Commands) -> None:
    """By name, and by range of ids; what is found can be canceled."""
    first = flux.id("submit", "--wait", "--job-name=needle-1", "true")
    last = flux.id("submit", "--urgency=hold", "--job-name=needle-2", "true")
    assert flux("pgrep", "needle").out.split() == [last]
    assert flux("pgrep", "-a", "needle").out.split() == [last, first]
    assert flux("pgrep", "-a", "-no", "{name} {status}", f"{first}..{last}", "1$").out == "needle-1 COMPLETED\n"
    assert flux("pgrep", "nosuch").shown == (1, "", "")
    assert flux("pgrep", "(").code == 2
    assert flux("pkill", "--wait", "needle").shown == (0, "", "flux-pkill: INFO: Canceled 1 job\n")
    assert flux("pkill", "needle").code == 1


def test_uri_of_a_process(flux: Commands) -> None:
    found = flux("run", "sh", "-c", f"{' '.join(flux.program)} uri pid:$$; exit 0")
    assert found.out.startswith("local://")
    assert "process id is expected" in flux("uri", "pid:x").err
    assert flux("uri", "pid:999999999").code == 1


def test_eventlog_of_resources(flux: Commands) -> None:
    """Up to an event, of some ranks, for so long."""
    assert flux("resource", "drain", "2", "broken").code == 0
    assert flux("resource", "undrain", "2").code == 0
    waited = flux("resource", "eventlog", "-w", "undrain", "-m", 'idset="2"', "-t", "30s")
    assert waited.code == 0
    assert 'undrain idset="2"' in waited.out.splitlines()[-1]
    events = [json.loads(line) for line in flux("resource", "eventlog", "-f", "json", "-i", "2").out.splitlines()]
    assert {"drain", "undrain"} <= {event["name"] for event in events}
    assert flux("resource", "eventlog", "-w", "nosuch", "-t", "0.1s").code == 1


@pytest.mark.parametrize("words", [("submit",), ("run",), ("job", "attach"), ("jobs",), ("resource", "list")])
def test_help(flux: Commands, words: tuple[str, ...]) -> None:
    result = flux(*words, "--help")
    assert result.code == 0
    assert "--" in result.out + result.err
