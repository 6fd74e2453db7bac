"""Whatever is on the command line, and whatever there is instead of an instance: a message and an exit code."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.cli.command import Command
from pytest_flux.cli.commands import TABLE
from pytest_flux.cli.commands.jobs.job import TABLE as JOB_TABLE
from pytest_flux.cli.flux import main

# These start other programs, or need no instance.
_LEFT_OUT = ("broker", "start", "relay", "pmi", "env", "version", "help", "fsck", "python")
_ROOT = Path(__file__).parent.parent.parent
_WORDS = (
    "",
    "0",
    "-1",
    "99999999999999999999999",
    "x",
    "ƒ",
    "f1",
    "\udcff",
    "a=b",
    "{name",
    "{name!z}",
    "[",
    "0-3",
    "all",
    "inf",
    "nan",
    "1e400",
    "5s",
    "foo(",
    "a" * 5000,
    "\n",
    "%s",
    "/nonexistent",
    "/dev/null",
    "-",
    "--",
    '{"a":1}',
    "null",
    "🙂",
    "a,b",
    "+1h",
)


def leaves() -> Iterator[tuple[list[str], Command]]:
    """All commands, with their full names."""

    def walk(names: list[str], command: Command) -> Iterator[tuple[list[str], Command]]:
        for subcommand in command.subcommands:
            yield from walk([*names, subcommand.name], subcommand)
        if not command.subcommands:
            yield names, command

    for entry in TABLE:
        if entry.name == "job":
            yield from ((["job", each.name], each.load()) for each in JOB_TABLE)
        elif entry.name not in _LEFT_OUT:
            yield from walk([entry.name], entry.load())


LEAVES = list(leaves())


@pytest.fixture(autouse=True)
def no_instance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The socket of an instance that is no more."""
    monkeypatch.setenv("FLUX_URI", f"local://{tmp_path}/local-0")
    monkeypatch.setenv("FLUX_LOCAL_CONNECTOR_RETRY_COUNT", "0")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("uri", ["local:///nonexistent/local-0", "foo://x", "ssh://", "local://" + "x" * 200])
def test_no_instance(uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Every command says so."""
    monkeypatch.setenv("FLUX_URI", uri)
    for names, _ in LEAVES:
        for arguments in ([], ["f1"], ["f1", "x"], ["a=1"]):
            status = main([*names, *arguments])
            out, err = capfd.readouterr()
            assert status in (0, 1, 2), (names, arguments, err)
            assert "Traceback" not in err
            # As in flux-core, which finds no ids on its stdin and leaves it at that.
            assert status == 0 or out or err or names == ["job", "id"], (names, arguments)


@pytest.mark.parametrize("seed", range(3))
def test_any_command_line(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Options of each command, with and without arguments, among words that make no sense."""
    choice = random.Random(seed)
    for names, command in LEAVES:
        for _ in range(8):
            words = list(names)
            for option in choice.choices(command.options, k=choice.randrange(3)) if command.options else ():
                name = f"-{option.key}" if option.key and choice.random() < 0.4 else f"--{option.name}"
                value = choice.choice(_WORDS)
                if option.name and option.argument:
                    words += [f"{name}={value}"] if name.startswith("--") else [name, value]
                elif option.name:
                    words.append(name)
            words += choice.choices(_WORDS, k=choice.randrange(3))
            status = main(words)
            _, err = capfd.readouterr()
            assert status in range(256), (words, status)
            assert "Traceback" not in err, words


@pytest.mark.parametrize("words", ["jobs --help", "help", "submit --dry-run true", "kvs put --help", "job id 1 2 3"])
@pytest.mark.parametrize("streams", ["| true", ">&-", ">&- 2>&-", "<&-", ">/dev/full"])
def test_unkind_streams(words: str, streams: str) -> None:
    """Who does not read, or has no room, gets no story of our insides."""
    command = f"{sys.executable} -m pytest_flux.cli.flux {words} {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=_ROOT, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
