"""What jobs get, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_flux.instance.flux_instance import FluxInstance, start
from pytest_flux.protocol.fluid import f58, f58plain
from tests.broker.exec.conftest import DEADLINE, Runner


def _environ(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_environment_of_tasks(runner: Runner) -> None:
    ended = runner.run("env", tasks=2, nodes=2)
    for rank in (0, 1):
        environ = _environ(ended.text(rank=str(rank)))
        name = f58(ended.id)
        assert environ["FLUX_JOB_ID"] == name
        assert environ["FLUX_JOB_ID_PATH"] == f"/{name}"
        assert environ["FLUX_JOB_SIZE"] == environ["FLUX_JOB_NNODES"] == environ["PMI_SIZE"] == "2"
        assert environ["FLUX_TASK_RANK"] == environ["PMI_RANK"] == str(rank)
        assert environ["FLUX_TASK_LOCAL_ID"] == "0"
        assert environ["FLUX_KVS_NAMESPACE"] == f"job-{ended.id}"
        assert environ["FLUX_URI"] == runner.instance.uri.replace("local-0", f"local-{rank}")
        assert environ["FLUX_JOB_TMPDIR"].endswith(f"/jobtmp-{rank}-{name}")
        assert not os.path.exists(environ["FLUX_JOB_TMPDIR"])
        assert environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_directory_and_its_loss(runner: Runner, tmp_path: Path) -> None:
    assert runner.run("pwd", cwd=str(tmp_path)).text() == f"{tmp_path}\n"
    ended = runner.run("pwd", cwd="/nonexistent")
    assert ended.text() == "/tmp\n"
    problem = "Could not change dir to /nonexistent: No such file or directory. Going to /tmp instead"
    assert ended.messages == [f"host {runner.instance.getattr('hostname')}: {problem}"]


@pytest.mark.parametrize(
    ("mode", "reason", "code"), [(None, "No such file or directory", 127), (0o644, "Permission denied", 126)]
)
def test_what_cannot_be_run(runner: Runner, tmp_path: Path, mode: int | None, reason: str, code: int) -> None:
    command = tmp_path / "program"
    if mode is not None:
        command.write_text("#!/bin/sh")
        command.chmod(mode)
    ended = runner.run(str(command))
    note = f"task 0 (host {runner.instance.getattr('hostname')}): start failed: {command}: {reason}"
    assert ended.exceptions == [{"type": "exec", "severity": 0, "note": note, "userid": os.getuid()}]
    assert ended.status == code << 8
    assert ended.messages == [note]
    names = [event["name"] for event in ended.exec]
    assert names == ["init", "starting", "shell.init", "shell-exit", "complete", "done"]


def test_a_script_without_an_interpreter_is_a_shell_script(runner: Runner, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo from a script\n")
    script.chmod(0o755)
    assert runner.run(str(script)).text() == "from a script\n"


def test_output_without_newline_and_exit_code(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "printf abc; printf def >&2; exit 7")
    assert (ended.text("stdout"), ended.text("stderr"), ended.status) == ("abc", "def", 7 << 8)


def test_output_in_files(runner: Runner, tmp_path: Path) -> None:
    output = {"stdout": {"type": "file", "path": "out.{{id.dec}}.{{taskid}}", "label": True}}
    ended = runner.run(
        "sh",
        "-c",
        "echo hello; echo trouble >&2",
        tasks=2,
        nodes=2,
        cwd=str(tmp_path),
        options={"output": output},
    )
    for rank in (0, 1):
        lines = (tmp_path / f"out.{ended.id}.{rank}").read_text().splitlines()
        assert sorted(lines) == [f"{rank}: hello", f"{rank}: trouble"]
    redirects = [event["context"] for event in ended.output if event["name"] == "redirect"]
    path = f"out.{ended.id}.{{{{taskid}}}}"
    assert redirects == [{"stream": stream, "rank": "[0-1]", "path": path} for stream in ("stdout", "stderr")]
    assert ended.text() == ""


def test_shells_share_a_file(runner: Runner, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old\n")
    options = {"output": {"stdout": {"type": "file", "path": str(target)}}}
    runner.run("sh", "-c", "for i in $(seq 100); do echo line; done", tasks=2, nodes=2, options=options)
    assert target.read_text() == "line\n" * 200
    options["output"]["mode"] = "append"  # type: ignore[assignment]
    runner.run("echo", "more", options=options)
    assert target.read_text() == "line\n" * 200 + "more\n"


def test_output_that_cannot_be_opened(runner: Runner) -> None:
    options = {"output": {"stdout": {"type": "file", "path": "/nonexistent/out"}}}
    ended = runner.run("true", options=options)
    assert ended.exceptions[0]["note"] == "shell_init: No such file or directory"
    assert ended.status == 256


def test_much_output(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "seq 200000")
    assert ended.text() == "".join(f"{number}\n" for number in range(1, 200001))


def test_output_is_cut_at_its_limit(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "seq 100000", options={"output": {"limit": "10K"}})
    assert 10230 < len(ended.text()) <= 10240
    assert any("will be truncated" in message for message in ended.messages)


def test_standard_input_comes_from_clients(runner: Runner) -> None:
    jobid = runner.submit("cat", tasks=2, nodes=2)
    runner.jobs.wait_event(jobid, "shell.init", "guest.exec.eventlog", timeout=DEADLINE)
    topic = f"{os.getuid()}-shell-{f58plain(jobid)}.stdin"
    client = runner.instance.client
    client.rpc(topic, {"stream": "stdin", "rank": "all", "data": "to all\n"}, nodeid=0).get(DEADLINE)
    client.rpc(topic, {"stream": "stdin", "rank": "1", "data": "to one\n", "eof": True}, nodeid=0).get(DEADLINE)
    with pytest.raises(OSError, match="Broken pipe"):
        client.rpc(topic, {"stream": "stdin", "rank": "1", "data": "late"}, nodeid=0).get(DEADLINE)
    client.rpc(topic, {"stream": "stdin", "rank": "all", "eof": True}, nodeid=0).get(DEADLINE)
    ended = runner.ended(jobid)
    assert (ended.text(rank="0"), ended.text(rank="1")) == ("to all\n", "to all\nto one\n")


def test_standard_input_from_a_file(runner: Runner, tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_text("given\n")
    options = {"input": {"stdin": {"type": "file", "path": str(source)}}}
    assert runner.run("cat", tasks=2, options=options).text() == "given\ngiven\n"
    options["input"]["stdin"]["path"] = "/nonexistent"
    assert "error opening input file" in runner.run("cat", options=options).exceptions[0]["note"]


def test_limits(runner: Runner) -> None:
    options = {"rlimit": {"nofile": 123, "cpu": 77}}
    assert runner.run("sh", "-c", "ulimit -n; ulimit -t", options=options).text() == "123\n77\n"


def test_arguments_are_templates(runner: Runner) -> None:
    ended = runner.run("echo", "{{taskid}}", "{{size}}", "{{unknown}}", tasks=2)
    assert sorted(ended.text().splitlines()) == ["0 2 {{unknown}}", "1 2 {{unknown}}"]


# -- ends


def test_a_signal_of_a_user(runner: Runner) -> None:
    jobid = runner.submit(
        "sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done", nodes=2, tasks=2
    )
    runner.jobs.wait_event(jobid, "shell.start", "guest.exec.eventlog", timeout=DEADLINE)
    _wait_output(runner, jobid, 2)
    runner.jobs.kill(jobid, signal.SIGUSR1)
    assert runner.ended(jobid).status == 5 << 8


def _wait_output(runner: Runner, jobid: int, count: int) -> None:
    """Until tasks have put out so much."""
    seen = 0
    for event in runner.jobs.watch(jobid, "guest.output", wait=True, timeout=DEADLINE):
        seen += "data" in event.get("context", {})
        if seen == count:
            return


@pytest.mark.flux(size=1, broker="embedded", conf={"exec": {"kill-timeout": "0.2s"}})
def test_a_task_that_ignores_its_end(flux_instance: FluxInstance) -> None:
    runner = Runner(flux_instance)
    jobid = runner.submit("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    _wait_output(runner, jobid, 1)
    runner.jobs.cancel(jobid)
    ended = runner.ended(jobid)
    assert ended.status == (128 + 9) << 8
    assert ended.exceptions[0]["type"] == "cancel"


_UNHEARD = {"kill-timeout": "0.02s", "term-signal": "SIGURG", "kill-signal": "SIGURG"}


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ({"max-kill-count": 2}, "max kill count"),
        ({"max-kill-timeout": "0.05s"}, "max-kill-timeout"),
    ],
)
def test_nodes_of_jobs_that_cannot_be_killed_are_drained(limit: dict[str, Any], text: str) -> None:
    with start(size=1, broker="embedded", conf={"exec": {**_UNHEARD, **limit}}) as instance:
        runner = Runner(instance)
        jobid = runner.submit("sleep", "1000")
        runner.jobs.wait_event(jobid, "start", timeout=DEADLINE)
        known = instance.rpc("job-exec.stats-get")["jobs"]
        assert [job["active_ranks"] for job in known.values()] == ["0"]
        runner.jobs.cancel(jobid)
        assert runner.ended(jobid).exceptions[0]["type"] == "cancel"
        drained = instance.rpc("resource.status")["drain"]
        assert "unkillable user processes for job" in drained["0"]["reason"]
        assert f"exceeded {text}. Draining" in instance.run(["flux", "dmesg"]).stdout


def test_what_a_task_leaves_behind_ends_with_it(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")
    deadline = time.monotonic() + DEADLINE
    path = f"/proc/{int(ended.text())}"
    with contextlib.suppress(OSError):
        while Path(f"{path}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline


def test_the_end_of_one_task_can_be_that_of_all(runner: Runner) -> None:
    command = ("sh", "-c", "test $FLUX_TASK_RANK = 1 && exit 3; sleep 1000")
    for options, text in (
        ({"exit-on-error": 1}, "failed (Exit 3) and exit-on-error is set"),
        ({"exit-timeout": 0.1}, "exited (Exit 3) and exit-timeout=0.1s has expired"),
    ):
        ended = runner.run(*command, tasks=2, options=options)
        host = runner.instance.getattr("hostname")
        exception = ended.exceptions[0]
        assert exception["note"] == f"sh: task rank 1 on host {host} {text}"
        assert list(exception) == ["type", "severity", "note", "userid", "wait_status"]
        assert ended.status == 3 << 8


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGKILL, 9), (signal.SIGHUP, 1), (signal.SIGTERM, (128 + 15) << 8), (signal.SIGINT, (128 + 2) << 8)],
)
def test_a_task_that_signals_its_parent(runner: Runner, signum: int, status: int) -> None:
    """As with flux-core's shell: the broker is not the parent."""
    ended = runner.run("sh", "-c", f"kill -{signum:d} $PPID; sleep 1")
    assert (ended.status, ended.exceptions) == (status, [])
    assert runner.run("echo", "alive").text() == "alive\n"


def test_a_task_that_kills_its_group(runner: Runner) -> None:
    for options in ({}, {"nosetpgrp": 1}):
        assert runner.run("sh", "-c", "kill 0; sleep 1000", options=options).status == (128 + 15) << 8
    assert runner.run("sh", "-c", "kill -9 0", options={"nosetpgrp": 1}).status == 9


def test_a_shell_that_is_killed_does_not_end_the_others(runner: Runner) -> None:
    script = "if test $FLUX_TASK_RANK = 1; then kill -9 $PPID; else sleep 0.3; fi"
    ended = runner.run("sh", "-c", script, tasks=2, nodes=2)
    assert ended.status == 9
    assert ended.messages == [f"shell rank 1 (on {runner.instance.getattr('hostname')}): Killed"]
    assert next(event for event in ended.exec if event["name"] == "shell-exit")["context"]["wait_status"] == 0


def test_a_fifo_that_nobody_reads_holds_up_its_job_only(runner: Runner, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    options = {"output": {"stdout": {"type": "file", "path": str(fifo)}}}
    waiting, doomed = (runner.submit("echo", "word", options=options) for _ in range(2))
    runner.jobs.wait_event(waiting, "start", timeout=DEADLINE)
    assert runner.run("echo", "alive").text() == "alive\n"
    runner.jobs.wait_event(doomed, "start", timeout=DEADLINE)
    runner.jobs.cancel(doomed)
    assert runner.ended(doomed).status == signal.SIGTERM
    assert fifo.read_text() == "word\n"
    assert runner.ended(waiting).status == 0


def test_output_to_a_full_disk_is_lost(runner: Runner, tmp_path: Path) -> None:
    """As in flux-core, the job does not fail; what can be said of it is said on standard error."""
    output = {"stdout": {"type": "file", "path": "/dev/full"}}
    options = {"output": output}
    assert runner.run("sh", "-c", "echo a; echo b >&2", options=options).status == 0
    output["stderr"] = {"type": "file", "path": str(tmp_path / "err")}
    assert runner.run("sh", "-c", "echo a; echo b >&2", options=options).status == 0
    lines = (tmp_path / "err").read_text().splitlines()
    assert sorted(lines) == ["b", "flux-shell[0]: ERROR: output.task: write stdout task 0: No space left on device"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor only")
def test_tasks_are_bound_before_they_run(runner: Runner) -> None:
    ids = [runner.submit("grep", "Cpus_allowed_list", "/proc/self/status") for _ in range(20)]
    bound = {runner.ended(jobid).text().split()[1] for jobid in ids}
    assert all(cpus.isdigit() for cpus in bound), bound


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_shell_that_is_killed_before_all_are_ready(runner: Runner, tmp_path: Path, nodes: int) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    options = {"output": {"stdout": {"type": "file", "path": str(fifo)}}}
    jobid = runner.submit("true", tasks=nodes, nodes=nodes, options=options)
    runner.jobs.wait_event(jobid, "starting", "guest.exec.eventlog", timeout=DEADLINE)
    broker = psutil.Process(int(runner.instance.getattr("broker.pid")))
    deadline = time.monotonic() + DEADLINE
    while True:
        # Those that are free may go, too.
        for process in broker.children():
            if process.name() == "flux-shell":
                process.kill()
        try:
            runner.jobs.wait_event(jobid, "exception", timeout=0.1)
            break
        except TimeoutError:
            assert time.monotonic() < deadline
    ended = runner.ended(jobid)
    note = f"{runner.instance.getattr('hostname')} (ranks 0) terminated before first barrier"
    assert note in [exception["note"] for exception in ended.exceptions]
    # The second shell gets SIGTERM for it.
    assert ended.status == (9 if nodes == 1 else 15)


@pytest.mark.parametrize("place", ["made", "none"])
def test_the_tmpdir_of_a_job(runner: Runner, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    tmpdir = str(tmp_path / ("a/b" if place == "made" else "file/b"))
    ended = runner.run("sh", "-c", "test -d $TMPDIR && echo $TMPDIR", environment={**os.environ, "TMPDIR": tmpdir})
    assert ended.text() == f"{tmpdir if place == 'made' else '/tmp'}\n"
    warning = f"Unable to create TMPDIR={tmpdir}, resetting TMPDIR=/tmp"
    assert ended.messages == ([] if place == "made" else [warning])


def test_job_ids_in_ascii(runner: Runner, tmp_path: Path) -> None:
    options = {"output": {"stdout": {"type": "file", "path": f"{tmp_path}/{{{{id}}}}"}}}
    environ = {**runner.instance.env, "FLUX_F58_FORCE_ASCII": "1"}
    ended = runner.run("env", options=options, environment=environ)
    name = f58plain(ended.id)
    found = _environ((tmp_path / name).read_text())
    assert (found["FLUX_JOB_ID"], found["FLUX_JOB_ID_PATH"]) == (name, f"/{name}")
    assert found["FLUX_JOB_TMPDIR"].endswith(f"/jobtmp-0-{name}")
    assert found["FLUX_URI"] == runner.instance.uri
    ended = runner.run("flux", "broker", "flux", "getattr", "jobid", environment=environ)
    assert ended.text() == f"{f58plain(ended.id)}\n"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("options", [{"exit-on-error": 1}, {"exit-timeout": 0.1}])
def test_the_end_of_one_shell_can_be_that_of_all(runner: Runner, first: int, options: dict[str, object]) -> None:
    """Whichever shell has no task left: the first one stays to end the job."""
    script = f"test $FLUX_TASK_RANK = {first} && exit 3; sleep 1000"
    ended = runner.run("sh", "-c", script, tasks=2, nodes=2, options=options)
    note = ended.exceptions[0]["note"]
    assert note.startswith(f"sh: task rank {first} on host {runner.instance.getattr('hostname')}"), note
    assert note in ended.messages
    assert ended.status == 3 << 8
    assert [event["context"]["wait_status"] for event in ended.exec if event["name"] == "shell-exit"] == [3 << 8]


def test_the_first_shell_ends_last(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "test $FLUX_TASK_RANK = 0 && exit 3; sleep 0.2; exit 4", tasks=2, nodes=2)
    names = [event["name"] for event in ended.exec]
    assert names[-4:] == ["shell.task-exit", "shell-exit", "complete", "done"]
    assert ended.status == 4 << 8
    assert next(event for event in ended.exec if event["name"] == "shell-exit")["context"]["wait_status"] == 3 << 8


def test_a_signal_before_the_limit(runner: Runner) -> None:
    options = {"signal": {"signum": int(signal.SIGUSR1), "timeleft": 999.5}}
    ended = runner.run("sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.05; done", duration=1000, options=options)
    assert ended.status == 9 << 8
    assert ended.messages == ["job will expire in 999.5s, sending SIGUSR1 to job"]


@pytest.mark.flux(size=3, broker="embedded", attrs={"tbon.topo": "kary:1"})
def test_a_broker_is_lost_while_a_job_runs(flux_instance: FluxInstance) -> None:
    flux_instance.expected_ends.add(2)
    runner = Runner(flux_instance)
    jobid = runner.submit("sleep", "1000", nodes=3, tasks=3)
    runner.jobs.wait_event(jobid, "shell.start", "guest.exec.eventlog", timeout=DEADLINE)
    pid = int(flux_instance.rpc("attr.get", {"name": "broker.pid"}, rank=2)["value"])
    os.kill(pid, signal.SIGKILL)
    ended = runner.ended(jobid)
    host = flux_instance.getattr("hostname")
    assert ended.exceptions[0]["note"] == f"node failure on {host} (rank 2)"
    assert ended.exceptions[0]["type"] == "exec"
    assert ended.status == (128 + 15) << 8
    assert f"node failure on {host} (shell rank 2)" in ended.messages


PROGRAM = """\
from mpi4py import MPI
world = MPI.COMM_WORLD
print(world.rank, world.size, world.allreduce(world.rank))
"""


def test_mpi_programs_find_their_peers(runner: Runner) -> None:
    pytest.importorskip("mpi4py")
    ended = runner.run(sys.executable, "-c", PROGRAM, tasks=4, nodes=2)
    assert ended.status == 0, (ended.text("stderr"), ended.messages)
    assert sorted(ended.text().splitlines()) == [f"{rank} 4 6" for rank in range(4)]


def test_an_instance_is_a_job(runner: Runner) -> None:
    script = "flux getattr size; flux getattr instance-level; flux getattr jobid"
    ended = runner.run("flux", "broker", "sh", "-c", script, tasks=2, nodes=2)
    assert ended.text() == f"2\n1\n{f58(ended.id)}\n", (ended.text("stderr"), ended.messages)
    memo = next(event["context"] for event in ended.events if event["name"] == "memo")
    assert memo["uri"].startswith(f"ssh://{runner.instance.getattr('hostname')}/")


def test_what_belongs_to_slots_without_task_is_not_used(runner: Runner) -> None:
    if os.cpu_count() == 1:
        pytest.skip("there are no cores to share")
    command = ("grep", "Cpus_allowed_list", "/proc/self/status")
    ended = runner.run(*command, options={"cpu-affinity": "on"}, tasks=3, nodes=2)
    assert len(set(ended.text().split("\n")) - {""}) == 2
    assert [text.partition(": ")[2] for text in ended.messages] == ["adjusted cores from 0-1 to 0"]


def test_shells_that_all_fail_raise_one_exception(runner: Runner) -> None:
    ended = runner.run("true", options={"taskmap": {"scheme": "nosuch"}}, tasks=2, nodes=2)
    assert [exception["note"] for exception in ended.exceptions] == ["failed to map tasks with scheme=nosuch"]
    assert "failed to map tasks with scheme=nosuch" in ended.messages


def test_an_exit_that_is_no_failure_but_too_early(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "[ $FLUX_TASK_RANK = 0 ] || sleep 60", options={"exit-timeout": 0.1}, tasks=2)
    assert ended.exceptions[0]["wait_status"] == 0
    assert ended.status == 0


@pytest.mark.parametrize("words", ["verbose", "dry-run", "verbose,per-task", "dry-run,verbose,per-task"])
def test_affinity_that_is_told(runner: Runner, words: str) -> None:
    ended = runner.run("true", options={"cpu-affinity": words}, tasks=2, nodes=1)
    assert ended.messages[0].startswith("cpus: ")
    tasks = [text.partition(":")[0] for text in ended.messages[1:]]
    assert tasks == (["task 0", "task 1"] if "per-task" in words else [])


def test_output_in_files_of_nodes(runner: Runner, tmp_path: Path) -> None:
    output = {"stdout": {"type": "file", "path": "{{node.id}}.{{node.ntasks}}.{{node.resources.ncores}}"}}
    command = ("sh", "-c", "echo $FLUX_TASK_RANK")
    runner.run(*command, options={"output": output}, tasks=3, nodes=2, cwd=str(tmp_path))
    found = {path.name: sorted(path.read_text().split()) for path in tmp_path.iterdir()}
    assert found == {"0.2.2": ["0", "1"], "1.1.2": ["2"]}
