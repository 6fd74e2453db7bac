"""rc1, the initial program, cleanup and rc3: what is run, with which environment, and what becomes of exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.parity.instances import Engine

TRANSITIONS = [
    "builtins-success: load-builtins->join",
    "parent-none: join->config-sync",
    "sync-none: config-sync->init",
    "rc1-none: init->quorum",
    "quorum-full: quorum->run",
    "rc2-success: run->cleanup",
    "cleanup-none: cleanup->shutdown",
    "children-none: shutdown->finalize",
    "rc3-none: finalize->goodbye",
    "goodbye: goodbye->unload-builtins",
    "builtins-done: unload-builtins->exit",
]


def test_life_of_one_broker_in_the_log(engine: Engine) -> None:
    # What modules log at the level debug is their own affair.
    log = [line for line in engine.run("-s1", "-o,-v,-v", "true").log if not line.startswith("<7>")]
    host = os.uname().nodename
    assert log == [
        f"<6>broker.info[{host}]: boot: rank=0 size=1",
        "<6>broker.info[0]: entering event loop",
        *(f"<6>broker.info[0]: {line} <TIME>" for line in TRANSITIONS[:4]),
        f"<6>broker.info[0]: online: {host} (ranks 0)",
        f"<6>broker.info[0]: {TRANSITIONS[4]} <TIME>",
        "<6>broker.info[0]: rc2.0: true Exited (rc=0) <TIME>",
        *(f"<6>broker.info[0]: {line} <TIME>" for line in TRANSITIONS[5:]),
        "<6>broker.info[0]: exited event loop",
        "<6>broker.info[0]: cleaning up",
    ]


def test_life_of_a_tree_in_the_log(engine: Engine) -> None:
    log = engine.run("-s3", "-Stbon.topo=kary:1", "-o,-v", "true").log
    of_rank = [[line.split(": ", 1)[1] for line in log if f".info[{rank}]" in line] for rank in range(3)]
    follower = [
        "builtins-success: load-builtins->join <TIME>",
        "parent-ready: join->config-sync <TIME>",
        "sync-success: config-sync->init <TIME>",
        "rc1-none: init->quorum <TIME>",
        "quorum-full: quorum->run <TIME>",
        "shutdown: run->cleanup <TIME>",
        "cleanup-none: cleanup->shutdown <TIME>",
        "children-complete: shutdown->finalize <TIME>",
        "rc3-none: finalize->goodbye <TIME>",
        "goodbye: goodbye->unload-builtins <TIME>",
        "builtins-done: unload-builtins->exit <TIME>",
    ]
    assert of_rank[1] == follower
    assert of_rank[2] == [line.replace("children-complete", "children-none") for line in follower]
    assert [line for line in of_rank[0] if "->" in line] == [
        f"{line} <TIME>".replace("children-none", "children-complete") for line in TRANSITIONS
    ]
    # Who joins first is a matter of luck, but nobody goes before those below.
    goodbyes = [line for line in log if "rc3-none" in line]
    assert [line[: line.index(":")] for line in goodbyes] == [f"<6>broker.info[{rank}]" for rank in (2, 1, 0)]


def test_phases_run_in_order_on_every_rank(engine: Engine, tmp_path: Path) -> None:
    note = f"echo %s $(flux getattr rank) >>{tmp_path}/notes"
    outcome = engine.run(
        "-s3",
        "-Stbon.topo=kary:1",
        f"-Sbroker.rc1_path={note % 'rc1'}",
        f"-Sbroker.rc3_path={note % 'rc3'}",
        note % "rc2",
    )
    assert outcome == (0, "", "")
    notes = (tmp_path / "notes").read_text().splitlines()
    assert notes == ["rc1 0", "rc1 1", "rc1 2", "rc2 0", "rc3 2", "rc3 1", "rc3 0"]


BLOCKED = (
    "FLUX_JOB_ID FLUX_ENCLOSING_ID FLUX_JOB_SIZE FLUX_JOB_NNODES FLUX_JOB_TMPDIR FLUX_TASK_RANK FLUX_TASK_LOCAL_ID "
    "FLUX_KVS_NAMESPACE FLUX_PROXY_REMOTE FLUX_PMI_LIBRARY_PATH I_MPI_PMI_LIBRARY NOTIFY_SOCKET PMIX_X SLURM_X PALS_X"
).split()


def test_environment_is_that_of_no_other_job(engine: Engine, tmp_path: Path) -> None:
    surroundings: dict[str, str | None] = {**dict.fromkeys(BLOCKED, "outside"), "KEPT": "yes"}
    note = "env >" + str(tmp_path) + "/%s.$(flux getattr rank)"
    outcome = engine.run(
        "-s2",
        f"-Sbroker.rc1_path={note % 'rc1'}",
        f"-Sbroker.rc3_path={note % 'rc3'}",
        note % "rc2",
        environ=surroundings,
    )
    assert outcome.code == 0
    for name in ("rc1.0", "rc1.1", "rc2.0", "rc3.0", "rc3.1"):
        lines = (tmp_path / name).read_text().splitlines()
        environ = dict(line.split("=", 1) for line in lines if "=" in line)
        rank = name[-1]
        assert environ["FLUX_URI"].endswith(f"/local-{rank}")
        assert environ["KEPT"] == "yes"
        assert not [name for name in (*BLOCKED, "PMI_FD", "PMI_RANK", "PMI_SIZE") if name in environ]
        assert {"FLUX_EXEC_PATH", "FLUX_CONNECTOR_PATH", "FLUX_MODULE_PATH", "FLUX_START_URI"} <= environ.keys()


NOT_FOUND = "error launching process: No such file or directory (rc=127)"


@pytest.mark.parametrize(
    ("program", "code", "log"),
    [
        (["true"], 0, []),
        (["exit 7"], 7, ["rc2.0: exit 7 Exited (rc=7)"]),
        (["sh", "-c", "kill -11 $$"], 139, ["rc2.0: sh -c kill -11 $$ Segmentation fault (rc=139)"]),
        (["no-such-program", "x"], 127, [f"rc2.0: no-such-program x {NOT_FOUND}"]),
        (["/etc/passwd", "x"], 126, ["rc2.0: /etc/passwd x error launching process: Permission denied (rc=126)"]),
        (["/etc/passwd"], 126, ["rc2.0: /etc/passwd Exited (rc=126)"]),
    ],
)
def test_initial_program(engine: Engine, program: list[str], code: int, log: list[str]) -> None:
    outcome = engine.run("-s1", *program)
    assert outcome.code == code
    assert [line for line in outcome.log if line.startswith("broker.")] == [
        f"broker.err[0]: {line} <TIME>" for line in log
    ]


def test_one_word_is_for_the_shell_unless_it_is_a_program(engine: Engine, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nps -o args= -p $PPID\n")
    script.chmod(0o755)
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "shell $*"\n')
    shell.chmod(0o755)
    environ = {"SHELL": str(shell)}
    assert engine.run("-s1", "a word", environ=environ).stdout == "shell -c a word\n"
    # Looked up in the current directory only: a command on PATH is a matter for the shell.
    assert engine.run("-s1", "true", environ=environ).stdout == "shell -c true\n"
    assert not engine.run("-s1", str(script), environ=environ).stdout.startswith("shell")


@pytest.mark.parametrize("shell", ["", "/no/such/shell"])
def test_bad_shell(engine: Engine, shell: str) -> None:
    outcome = engine.run("-s1", "true && true", environ={"SHELL": shell})
    assert outcome.code == 127
    assert f"broker.err[0]: rc2.0: true && true {NOT_FOUND} <TIME>" in outcome.log


def test_shell_that_is_not_set(engine: Engine) -> None:
    assert engine.run("-s1", "echo ${BASH:-none}", environ={"SHELL": None}).stdout == "/bin/bash\n"


@pytest.mark.parametrize("program", [[], ["sh"]])
def test_interactive_shell_needs_a_terminal(engine: Engine, program: list[str]) -> None:
    outcome = engine.run("-s1", *program)
    assert outcome.code == 1
    assert "broker.crit[0]: stdin is not a tty - can't run interactive shell" in outcome.log


def test_rc1_that_fails(engine: Engine) -> None:
    outcome = engine.run("-s1", "-Sbroker.rc1_path=echo out; echo err >&2; exit 5", "echo never")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert "broker.err[0]: rc1.0: err" in outcome.log
    assert "broker.err[0]: rc1.0: echo out; echo err >&2; exit 5 Exited (rc=5) <TIME>" in outcome.log


def test_rc1_that_fails_on_another_rank(engine: Engine) -> None:
    outcome = engine.run(
        "-s2", "-Sbroker.rc1_path=test $(flux getattr rank) = 0", "--test-exit-timeout=0.2s", "echo never"
    )
    assert outcome.code in (1, 137)
    assert outcome.stdout == ""
    assert "broker.err[1]: rc1.0: test $(flux getattr rank) = 0 Exited (rc=1) <TIME>" in outcome.log


@pytest.mark.parametrize(("rc2", "code"), [("exit 2", 2), ("true", 4)])
def test_first_failure_counts(engine: Engine, rc2: str, code: int) -> None:
    outcome = engine.run("-s1", "-Sbroker.rc3_path=exit 4", rc2)
    assert outcome.code == code
    assert "broker.err[0]: rc3.0: exit 4 Exited (rc=4) <TIME>" in outcome.log


def test_rc1_ignored_when_recovering(engine: Engine) -> None:
    outcome = engine.run("-s1", "-Sbroker.recovery-mode=1", "-Sbroker.rc1_path=false", "-o,-v", "echo ran")
    assert (outcome.code, outcome.stdout) == (0, "ran\n")
    assert any("rc1-ignorefail: init->quorum" in line for line in outcome.log)


def test_exit_code_for_systemd(engine: Engine) -> None:
    assert engine.run("-s1", "-Sbroker.exit-norestart=42", "-Sbroker.rc1_path=false", "true").code == 42


def test_cleanup_runs_what_was_pushed_last_first(engine: Engine, tmp_path: Path) -> None:
    push = (
        "from pytest_flux.client import Flux; "
        "Flux().rpc('runat.push', {'name': 'cleanup', 'commands': ['echo 1', 'false', 'echo 3']}).get()"
    )
    outcome = engine.run("-s1", "-o,-v", "sh", "-c", f'{sys.executable} -c "{push}"')
    assert outcome.code == 1
    assert [line for line in outcome.log if "cleanup." in line] == [
        "<6>broker.info[0]: cleanup.0: 3",
        "<6>broker.info[0]: cleanup.0: echo 3 Exited (rc=0) <TIME>",
        "<3>broker.err[0]: cleanup.1: false Exited (rc=1) <TIME>",
        "<6>broker.info[0]: cleanup.2: 1",
        "<6>broker.info[0]: cleanup.2: echo 1 Exited (rc=0) <TIME>",
    ]
    assert any("cleanup-fail: cleanup->shutdown" in line for line in outcome.log)
