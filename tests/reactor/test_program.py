"""Programs are started as execvpe(3) would, with the streams, directory and group that were asked for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_flux.reactor.program import STDERR, STDIN, STDOUT, start_program


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
