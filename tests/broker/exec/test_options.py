"""Options of the job shell that make no sense, or that only flux-core has: what jobs say of them. Seen with 0.88."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.exec.options import ShellFailure, check_options, input_limit, signal_options
from pytest_flux.client.jobspec import from_command
from tests.broker.exec.conftest import DEADLINE, Runner

_NO_FILE = "shell_init: No such file or directory"


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (
            {"input": {"limit": "x"}},
            [
                "Invalid KVS input.limit=x",
                "failed to initialize input ctx",
                "plugin 'input.service': shell.init failed",
                _NO_FILE,
            ],
        ),
        (
            {"input": {"stdin": {"type": "foo"}}},
            ["input.stdin.type=foo invalid", "plugin 'input.service': shell.init failed", _NO_FILE],
        ),
        (
            {"input": {"stdin": {"type": 42}}},
            [
                "shell_getopt: unpack error: Expected string, got integer",
                "plugin 'input.service': shell.init failed",
                _NO_FILE,
            ],
        ),
        (
            {"output": {"stdout": {"type": 42}}},
            [
                "shell_getopt: unpack error: Expected string, got integer",
                "failed to read stdout output options",
                "plugin 'output': shell.init failed",
                _NO_FILE,
            ],
        ),
        (
            {"output": {"limit": "x"}},
            ["Invalid KVS output.limit=x", "plugin 'output': shell.init failed", _NO_FILE],
        ),
        (
            {"rexec-shutdown-timeout": "x"},
            [
                "failed to parse rexec-shutdown-timeout: Invalid argument",
                "plugin 'rexec': shell.init failed",
                "shell_init",
            ],
        ),
        (
            {"pmi-simple": {"foo": 3}},
            [
                "option error: 1 object item(s) left unpacked: foo",
                "plugin 'pmi-simple': shell.init failed",
                _NO_FILE,
            ],
        ),
        (
            {"pmi-simple": {"exchange": {"k": "x"}}},
            ["option error: Expected integer, got string", "plugin 'pmi-simple': shell.init failed", _NO_FILE],
        ),
        (
            {"pmi": {"badopt": 1}},
            ["pmi shell option must be a string", "plugin 'pmi-simple': shell.init failed", _NO_FILE],
        ),
        (
            {"verbose": "x"},
            [
                "shell_getopt: unpack error: Expected integer, got string",
                "failed to parse attributes.system.shell.verbose",
            ],
        ),
        (
            {"nosetpgrp": "x"},
            [
                "shell_getopt: unpack error: Expected integer, got string",
                "failed to parse attributes.system.shell.nosetpgrp",
            ],
        ),
        (
            {"taskmap": {"scheme": "hostfile", "value": "/nonexistent"}},
            [
                "failed to open hostfile: /nonexistent: No such file or directory",
                "failed to get hostlists from file and R",
                "plugin 'taskmap.hostfile': taskmap.hostfile failed",
                "taskmap.hostfile failed",
                "shell_taskmap",
            ],
        ),
    ],
)
def test_what_makes_no_sense(runner: Runner, options: dict[str, Any], messages: list[str]) -> None:
    ended = runner.run("true", options=options)
    assert ended.messages == messages
    assert [exception["note"] for exception in ended.exceptions] == messages[-1:]
    assert ended.status == 1 << 8


@pytest.mark.parametrize(
    "options", [{"hwloc": {"xmlfile": 1}}, {"mpi": "spectrum"}, {"stage-in": 1}, {"stage-in": {"names": "x"}}]
)
def test_what_only_flux_core_can_do(options: dict[str, Any]) -> None:
    with pytest.raises(ShellFailure, match="needs flux-core"):
        check_options(options, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mpi": "intel", "pmi": "foo", "nosuchoption": 1, "hwloc": {"restrict": 1}, "verbose": 2},
        {"input": {"stdin": {"type": "service"}, "limit": "5K"}, "output": {"mode": "foo"}},
        {"rexec-shutdown-timeout": "1s", "pmi-simple": {"nomap": 1, "exchange": {"k": 1}}},
    ],
)
def test_what_is_accepted(options: dict[str, Any]) -> None:
    assert check_options(options, 1) == []


def test_a_fanout_that_is_too_large(runner: Runner) -> None:
    ended = runner.run("true", options={"pmi-simple": {"exchange": {"k": 3}}})
    assert ended.messages == ["requested exchange fanout too large, using k=1"]


@pytest.mark.parametrize("value", [{"signum": {}}, {"signum": []}, {"signum": 1e9}, {"timeleft": {}}, "x"])
def test_signals_of_any_type(value: object) -> None:
    with pytest.raises(ShellFailure):
        signal_options({"signal": value})


def test_a_signal_without_a_name(runner: Runner) -> None:
    ended = runner.run("true", options={"signal": {"signum": signal.SIGRTMIN + 1}})
    assert ended.messages == ["job has no expiration, (null) will not be sent"]


def test_the_limit_of_input(runner: Runner) -> None:
    assert input_limit({"input": {"limit": "1k"}}) == (1024, "1k")
    jobid = runner.submit("cat", options={"input": {"limit": 5}})
    init = runner.jobs.wait_event(jobid, "shell.init", "guest.exec.eventlog", timeout=DEADLINE)
    client = runner.instance.client
    topic = f"{init['context']['service']}.stdin"
    client.rpc(topic, {"stream": "stdin", "rank": "all", "data": "hello world", "eof": True}, nodeid=0).get(DEADLINE)
    ended = runner.ended(jobid)
    assert ended.messages[-1].startswith("stdin exceeds 5 limit. Try file input")
    assert ended.status == 1 << 8


def test_verbose_shells(runner: Runner) -> None:
    ended = runner.run("sh", "-c", "exit 3", options={"verbose": 1})
    assert ended.messages == [
        "simple wire protocol is enabled",
        "task 0 complete status=3",
        "all shells report tasks complete",
        "exit 3",
    ]


def test_a_mock_exception_of_bulkexec(runner: Runner) -> None:
    notes = {}
    for phase in ("init", "foo"):
        jobspec = from_command(["true"], environment={"PATH": os.defpath})
        jobspec["attributes"]["system"]["exec"] = {"bulkexec": {"mock_exception": phase}}
        jobid = runner.jobs.submit(jobspec)
        runner.jobs.wait_event(jobid, "clean", timeout=DEADLINE)
        events = runner.log(jobid, "eventlog")
        notes[phase] = [event["context"]["note"] for event in events if event["name"] == "exception"]
    assert notes == {"init": ["mock init exception generated"], "foo": []}


def test_tasks_by_a_file_of_hosts(runner: Runner, tmp_path: Path) -> None:
    host = runner.instance.getattr("hostname")
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{host}\n\n{host}\n")
    options = {"taskmap": {"scheme": "hostfile", "value": str(hosts)}}
    assert runner.run("echo", "ok", tasks=2, options=options).text() == "ok\nok\n"
    hosts.write_text("otherhost\n")
    text = f"failed to map tasks with hostfile:{hosts}: host otherhost not found in job nodelist"
    assert runner.run("true", options=options).messages[0] == text


def test_more_tasks_than_can_be(runner: Runner) -> None:
    jobspec = from_command(["true"], environment={"PATH": os.defpath})
    jobspec["tasks"][0]["count"] = {"total": 1 << 62}
    ended = runner.ended(runner.jobs.submit(jobspec))
    assert ended.status == 1 << 8
    assert ended.exceptions[0]["note"] == f"tasks of a job: {1 << 62} exceeds the limit of 16384"
