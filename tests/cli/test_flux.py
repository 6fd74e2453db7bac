"""The `flux` command itself: finding commands, help, options that choose an instance."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_flux.cli.commands
from pytest_flux.cli.command import Command
from pytest_flux.cli.commands import LACKING, TABLE
from pytest_flux.cli.commands.help import edit_distance
from pytest_flux.cli.commands.jobs.job import TABLE as JOB_TABLE
from pytest_flux.cli.flux import main, path_with
from pytest_flux.client import Flux
from pytest_flux.protocol.message import Message
from pytest_flux.reactor.usock import Connection
from tests.client.scripted_broker import ScriptedBroker, open_broker

WAIT = 20.0
FLUX = (sys.executable, "-m", "pytest_flux.cli.flux")


def run_program(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLUX, *words], env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_without_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Usage: flux [OPTIONS] COMMAND ARGS\n")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().err
    for entry in TABLE:
        assert f"\n   {entry.name:<18} {entry.summary}\n" in text
    assert main(["help"]) == 0
    assert capsys.readouterr().err == text


def test_table_lists_every_command() -> None:
    """Each module below `commands` has commands under names that differ, and each of them is in a table."""
    modules = {entry.module for entry in (*TABLE, *JOB_TABLE)}
    for module in modules:
        commands = importlib.import_module(f"pytest_flux.cli.commands.{module}").COMMANDS
        listed = {entry.name for entry in (*TABLE, *JOB_TABLE) if entry.module == module}
        assert sorted(command.name for command in commands) == sorted(listed)
    folder = Path(pytest_flux.cli.commands.__file__).parent
    with_commands = [path for path in folder.rglob("*.py") if "\nCOMMANDS = " in path.read_text(encoding="utf-8")]
    assert {".".join(path.relative_to(folder).with_suffix("").parts) for path in with_commands} == modules


@pytest.mark.parametrize("name", [entry.name for entry in TABLE])
def test_every_command_has_help(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    # flux-core's own `flux job --help` exits with 1.
    expected = 1 if name == "job" else 0
    assert main([name, "--help"]) == expected
    shown = capfd.readouterr()
    assert "--help" in shown.err + shown.out
    assert main(["help", name]) == expected
    assert "Usage: flux" in "".join(capfd.readouterr())


def commands() -> Iterator[Command]:
    for entry in TABLE:
        command = entry.load()
        yield command
        yield from command.subcommands


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.program)
def test_commands_are_well_formed(command: Command) -> None:
    names = [option.name for option in command.options]
    keys = [option.key for option in command.options if option.key]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)
    assert "h" not in keys
    assert (command.run is None) == bool(command.subcommands)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzyplugh"]) == 1
    assert capsys.readouterr().err == "flux: `xyzzyplugh' is not a flux command.  See 'flux --help'\n"


@pytest.mark.parametrize(
    ("word", "lines"),
    [
        ("overla", ["The most similar command is", "\toverlay"]),
        ("dmessg", ["The most similar command is", "\tdmesg"]),
        ("etattr", ["The most similar commands are", "\tgetattr", "\tsetattr"]),
    ],
)
def test_suggestions(word: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [f"flux: {line}" for line in lines]


@pytest.mark.parametrize(("one", "other", "distance"), [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3)])
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@pytest.mark.parametrize("name", sorted(LACKING))
def test_commands_of_flux_core_are_known(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--some-option"]) == 1
    assert "flux-core" in capsys.readouterr().err


def test_no_command_is_both_here_and_lacking() -> None:
    assert not LACKING & {entry.name for entry in TABLE}


@pytest.mark.parametrize("word", ["-x", "--bogus"])
def test_unknown_option(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "getattr"]) == 1
    assert capsys.readouterr().err == (
        f"flux: unrecognized option '{word}'\nTry `flux --help' for more information.\n"
    )


def test_help_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "nosuch"]) == 1
    assert "no help for `nosuch'" in capsys.readouterr().err


def test_missing_and_unknown_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["event"]) == 1
    usage = (
        "Usage: flux-event pub [OPTIONS] topic [payload]\n   or: flux-event sub [OPTIONS] [topic...]\n  -h, --help"
    )
    assert capsys.readouterr().err.startswith(f"flux-event: missing subcommand\n{usage}")
    assert main(["event", "bogus"]) == 1
    assert capsys.readouterr().err.startswith(f"flux-event: Unknown subcommand: bogus\n{usage}")


def test_version(bed: ScriptedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    bed.attributes["version"] = "1.2.3"
    for words in (["version"], ["-V"]):
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:4] == [
            "commands:    \t\t0.88.0",
            "libflux-core:\t\t0.88.0",
            "broker:  \t\t1.2.3",
            f"FLUX_URI:\t\t{bed.uri}",
        ]
        assert lines[4].startswith("build-options:\t\tembedded (pytest-flux ")


def test_version_outside_of_an_instance(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FLUX_URI", raising=False)
    assert main(["version"]) == 0
    assert "broker" not in capsys.readouterr().out


def test_env_prints_the_environment(bed: ScriptedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    assert f'export FLUX_URI="{bed.uri}"' in capsys.readouterr().out.splitlines()


def test_env_runs_a_command(bed: ScriptedBroker) -> None:
    result = run_program("env", "sh", "-c", "echo $FLUX_URI; exit 5")
    assert (result.stdout, result.returncode) == (f"{bed.uri}\n", 5)
    result = run_program("env", "nosuchprogram")
    assert (result.stderr, result.returncode) == ("flux: execvp (nosuchprogram): No such file or directory\n", 1)


def test_verbose_shows_the_environment(bed: ScriptedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-v", "getattr", "size"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "4"
    assert f"FLUX_URI={bed.uri}" in lines


def test_programs_called_flux_something_are_commands(tmp_path: Path) -> None:
    program = tmp_path / "flux-mine"
    program.write_text('#!/bin/sh\necho "$@"\nexit 4\n')
    program.chmod(0o755)
    for name in ("FLUX_EXEC_PATH", "FLUX_EXEC_PATH_PREPEND", "PATH"):
        result = run_program("mine", "-v", "a b", **{name: f"{tmp_path}:/usr/bin:/bin"})
        assert (result.stdout, result.returncode) == ("-v a b\n", 4)


def test_a_path_is_a_program(tmp_path: Path) -> None:
    program = tmp_path / "anything"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    assert run_program(str(program), "x").stdout == "x\n"
    result = run_program("./nosuch")
    assert (result.stderr, result.returncode) == ("flux: ./nosuch: No such file or directory\n", 1)


def test_parent(bed: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLUX_KVS_NAMESPACE", "mine")
    with open_broker() as child:
        child.attributes |= {"parent-uri": bed.uri, "instance-level": "1", "size": "1"}
        for option in ("-p", "--parent", "-r", "--root", "-pp"):
            monkeypatch.setenv("FLUX_URI", child.uri)
            assert main([option, "getattr", "size"]) == 0
            assert capsys.readouterr().out == "4\n"
            assert os.environ["FLUX_URI"] == bed.uri
            assert "FLUX_KVS_NAMESPACE" not in os.environ
        child.attributes["parent-kvs-namespace"] = "job-7"
        monkeypatch.setenv("FLUX_URI", child.uri)
        assert main(["-p", "env"]) == 0
        assert 'export FLUX_KVS_NAMESPACE="job-7"' in capsys.readouterr().out


def test_parent_of_the_outermost(bed: ScriptedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-p", "-r"):
        assert main([option, "getattr", "size"]) == 0
        assert capsys.readouterr().out == "4\n"
    bed.attributes["instance-level"] = "nonsense"
    assert main(["-r", "getattr", "size"]) == 1
    assert capsys.readouterr().err == "flux: got invalid instance-level attribute: nonsense\n"


@pytest.mark.parametrize("words", [["getattr", "size"], ["exec", "-n", "true"], ["dmesg"], ["-p", "env"]])
def test_instance_that_is_not_there(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLUX_LOCAL_CONNECTOR_RETRY_COUNT", "0")
    monkeypatch.setenv("FLUX_URI", "local:///nonexistent/local")
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.endswith(": flux_open: No such file or directory (local:///nonexistent/local)\n")
    monkeypatch.setenv("FLUX_URI", "bogus")
    assert main(words) == 1
    assert "cannot connect to 'bogus'" in capsys.readouterr().err


def test_broker_that_goes_away(bed: ScriptedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    bed.on("log.dmesg", lambda bed, connection, _: connection.close())
    assert main(["dmesg"]) == 1
    assert capsys.readouterr().err == f"flux-dmesg: {bed.uri}: the broker has hung up\n"


def test_the_flux_that_runs_is_the_flux_that_is_found(tmp_path: Path) -> None:
    for name in ("ours", "other", "empty"):
        (tmp_path / name).mkdir()
    for name in ("ours", "other"):
        (tmp_path / name / "flux").touch(mode=0o755)
    ours, other, empty = (str(tmp_path / name) for name in ("ours", "other", "empty"))
    assert path_with(f"{empty}:{ours}:{other}", ours) == f"{empty}:{ours}:{other}"
    assert path_with(f"{empty}:{other}", ours) == f"{empty}:{ours}:{other}"
    assert path_with(f"{other}:{ours}", ours) == f"{ours}:{other}:{ours}"
    assert path_with(empty, ours) == f"{empty}:{ours}"


def test_closed_descriptors_are_not_taken_for_the_connection(bed: ScriptedBroker) -> None:
    command = " ".join(FLUX)
    result = subprocess.run(
        ["sh", "-c", f"{command} getattr size <&-; {command} getattr size >&-; {command} getattr nosuch 2>&-"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("4\n", "", 1)


def test_output_that_nobody_reads(bed: ScriptedBroker) -> None:
    followers: list[tuple[Connection, Message]] = []
    followed = threading.Event()

    def follow(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        followers.append((connection, request))
        followed.set()

    def log(bed: ScriptedBroker, connection: Connection, request: Message) -> None:
        bed.answer(*followers[0], b"<40>1 2026-01-01T00:00:00.000000Z 0 test 1 - - line\0")
        bed.answer(connection, request)

    bed.on("log.dmesg", follow)
    bed.on("test.log", log)
    with subprocess.Popen([*FLUX, "dmesg", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert followed.wait(WAIT)
        with Flux(bed.uri) as flux:
            flux.rpc("test.log").get(WAIT)
        assert process.wait(WAIT) == -signal.SIGPIPE
        assert process.stderr.read() == b""


def test_interrupt_ends_it_silently(bed: ScriptedBroker) -> None:
    followed = threading.Event()
    bed.on("log.dmesg", lambda *_: followed.set())
    with subprocess.Popen([*FLUX, "dmesg", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert followed.wait(WAIT)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=WAIT) == (b"", b"")
        assert process.returncode == -signal.SIGINT


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_programs_that_are_started_end_by_sigpipe() -> None:
    result = run_program("env", "grep", "SigIgn", "/proc/self/status")
    assert int(result.stdout.split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0


def test_starting_is_cheap() -> None:
    heavy = {
        "argparse",
        "asyncio",
        "dataclasses",
        "inspect",
        "logging",
        "pathlib",
        "subprocess",
        "tempfile",
        "pytest",
    }
    code = (
        "import sys; from pytest_flux.cli.flux import main; import pytest_flux.cli.commands.instance.attr;"
        "print(*sys.modules)"
    )
    words = (sys.executable, "-SEc", f"import sys; sys.path[:0] = {sys.path!r}; {code}")
    result = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert not heavy & set(result.stdout.split())
