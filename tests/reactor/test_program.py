"""Programs are started as execvpe(3) would, with the streams, directory and group that were asked for."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.reactor.program import STDERR, STDIN, STDOUT, Program, spawn, start_program


def _output(
    argv: Sequence[str], *, environ: dict[str, str] | None = None, cwd: str | None = None, discard: bool = False
) -> str:
    pid, pipes = start_program(argv, environ=environ, cwd=cwd, pipes=[STDOUT], discard=discard)
    with open(pipes[STDOUT]) as stream:
        output = stream.read()
    os.waitpid(pid, 0)
    return output


def _program(path: Path, mode: int = 0o755) -> None:
    path.write_text("#!/bin/sh\necho it runs\n")
    path.chmod(mode)


def test_pipes_carry_all_three_streams() -> None:
    pid, pipes = start_program(["sh", "-c", "read x; echo $x; echo $x >&2"], pipes=[STDIN, STDOUT, STDERR])
    os.write(pipes[STDIN], b"word\n")
    os.close(pipes[STDIN])
    for stream in (STDOUT, STDERR):
        with open(pipes[stream], "rb") as end:
            assert end.read() == b"word\n"
    assert os.waitpid(pid, 0)[1] == 0


def test_streams_can_be_discarded() -> None:
    output = _output(["sh", "-c", "cat && test /dev/fd/2 -ef /dev/null && echo discarded"], discard=True)
    assert output == "discarded\n"


def test_directory_is_the_childs_alone(tmp_path: Path) -> None:
    before = os.getcwd()
    assert _output(["pwd"], cwd=str(tmp_path)) == f"{tmp_path.resolve()}\n"
    assert os.getcwd() == before


def test_missing_directory_is_an_error_that_leaves_nothing_open(tmp_path: Path) -> None:
    _output(["true"])
    before, opened = os.getcwd(), os.listdir("/dev/fd")
    with pytest.raises(FileNotFoundError):
        start_program(["pwd"], cwd=str(tmp_path / "missing"), pipes=[STDIN, STDOUT])
    assert os.getcwd() == before
    assert os.listdir("/dev/fd") == opened


def test_search_path_is_the_environments(tmp_path: Path) -> None:
    _program(tmp_path / "program")
    assert _output(["program"], environ={"PATH": f"/missing:{tmp_path}:/bin:/usr/bin"}) == "it runs\n"


def test_empty_part_of_the_search_path_is_the_new_directory(tmp_path: Path) -> None:
    _program(tmp_path / "program")
    assert _output(["program"], environ={"PATH": ""}, cwd=str(tmp_path)) == "it runs\n"


def test_program_that_must_not_be_executed_is_the_error_unless_another_can(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    _program(tmp_path / "first" / "program", 0o644)
    path = f"{tmp_path}/first:{tmp_path}/second"
    with pytest.raises(PermissionError):
        start_program(["program"], environ={"PATH": path})
    _program(tmp_path / "second" / "program")
    assert _output(["program"], environ={"PATH": path}) == "it runs\n"


@pytest.mark.parametrize("name", ["", "no-such-program", "/no/such/program"])
def test_missing_program_is_an_error(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        start_program([name])


def test_group_is_led_by_the_program() -> None:
    pid, _ = start_program(["sleep", "60"], group=True)
    try:
        assert os.getpgid(pid) == pid
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_broken_pipe_is_a_signal_again() -> None:
    assert _output(["sh", "-c", "sh -c 'kill -PIPE $$'; echo $?"]) == f"{128 + signal.SIGPIPE}\n"


def test_inherited_descriptors_are_not_passed_on() -> None:
    script = """
import os, sys
from pytest_flux.reactor.program import start_program
before = int(sys.argv[1])
os.fstat(before)
pid, _ = start_program(["sh", "-c", f"test ! -e /dev/fd/{before}"])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", script, str(reading)], os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(reading)
    os.close(writing)


def test_pipes_do_not_take_the_place_of_closed_streams() -> None:
    script = """
import os, sys
from pytest_flux.reactor.program import STDIN, STDOUT, start_program
os.close(0), os.close(1)
pid, pipes = start_program(["cat"], pipes=[STDIN, STDOUT])
os.write(pipes[STDIN], b"word")
os.close(pipes[STDIN])
sys.exit(os.read(pipes[STDOUT], 100) != b"word")
"""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", script], os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _spawned(*argv: str, inherited: dict[int, int] | None = None, **how: Any) -> str:  # noqa: ANN401
    """What a program writes that was started by ``spawn``."""
    reading, writing = os.pipe()
    try:
        pid = spawn(Program(argv, dict(os.environ), **how), {STDOUT: writing, **(inherited or {})})
    finally:
        os.close(writing)
    with open(reading) as stream:
        output = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return output


def test_limits_are_the_programs_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert _spawned("sh", "-c", "ulimit -n", limits=[(resource.RLIMIT_NOFILE, 50)]) == "50\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_limits_that_would_strike_us() -> None:
    limits = [(resource.RLIMIT_CPU, 77), (resource.RLIMIT_NOFILE, 50)]
    assert _spawned("sh", "-c", "ulimit -t; ulimit -n; pwd", limits=limits, cwd="/") == "77\n50\n/\n"


@pytest.mark.parametrize("limits", [[], [(resource.RLIMIT_CPU, 77)]], ids=["spawn", "fork"])
def test_a_descriptor_gets_another_number(limits: list[tuple[int, int]]) -> None:
    reading, writing = os.pipe()
    try:
        script = f"test -e /dev/fd/99 && ! test -e /dev/fd/{writing} && echo there"
        assert _spawned("sh", "-c", script, inherited={99: writing}, limits=limits) == "there\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_descriptor_keeps_its_number_and_is_for_one_program() -> None:
    reading, writing = os.pipe()
    try:
        assert _spawned("sh", "-c", f"test -e /dev/fd/{writing} && echo there", inherited={writing: writing})
        assert not os.get_inheritable(writing)
        assert _spawned("sh", "-c", f"test -e /dev/fd/{writing} || echo gone") == "gone\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_without_interpreter_is_for_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo $0 $1\n")
    script.chmod(0o755)
    assert _spawned(str(script), "word") == f"{script} word\n"


def test_a_terminal_becomes_the_controlling_one() -> None:
    ours, theirs = os.openpty()
    try:
        path = os.ttyname(theirs)
        facts = "os.ttyname(0), os.tcgetpgrp(0) == os.getpid() == os.getsid(0)"
        script = f"import os; os.write(1, repr(({facts})).encode())"
        pid = spawn(Program([sys.executable, "-c", script], dict(os.environ), terminal=path), {})
        assert os.waitpid(pid, 0)[1] == 0
        assert os.read(ours, 100) == f"('{path}', True)".encode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("how", [{"cwd": "/no/such/directory"}, {"limits": [(resource.RLIMIT_NOFILE, 1 << 60)]}])
def test_a_failure_leaves_everything_as_it_was(how: dict[str, Any]) -> None:
    _output(["true"])
    before = os.getcwd(), os.listdir("/dev/fd"), resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises((OSError, ValueError)):
        spawn(Program(["true"], dict(os.environ), **how), {})
    assert (os.getcwd(), os.listdir("/dev/fd"), resource.getrlimit(resource.RLIMIT_NOFILE)) == before
