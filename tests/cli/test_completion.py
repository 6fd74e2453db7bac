"""Completion in real shells, which have a terminal and get TAB keys."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_flux.cli import completion
from pytest_flux.cli.topics import Topic, flux_start_topic, flux_topic

PATIENCE = 60.0
_CONTROL = re.compile(r"\x1b(?:\[[0-9;?>=]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>])|\r|\x07|\x0f")


class Shell:
    """A shell with a terminal; ``set_up`` is typed first."""

    def __init__(self, argv: list[str], environ: dict[str, str], set_up: str) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, environ)
        self._seen = ""
        self.type(f"{set_up}\r")
        # What is typed has no READY in it, so only the output does.
        self.type("echo REA''DY\r")
        self.wait_for("READY")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait_for(self, text: str) -> str:
        """Wait until the terminal has shown a text, since the last time. Return all that it has shown."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._seen:
            ready, _, _ = select.select([self.terminal], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {text!r} in {self._seen!r}"
            data = os.read(self.terminal, 65536).decode(errors="replace")
            # fish waits for an answer to a question about the terminal.
            if "\x1b[c" in data or "\x1b[0c" in data:
                self.type("\x1b[?62;c")
            self._seen = _CONTROL.sub("", self._seen + data)
        seen, self._seen = self._seen, ""
        return seen

    def complete(self, typed: str, expected: str) -> str:
        """Type the beginning of a line and TAB, wait for what must appear, and drop the line."""
        self.type(f"{typed}\t")
        seen = self.wait_for(expected)
        self.type("\x15")
        return seen

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    share = tmp_path_factory.mktemp("share")
    for name, text in completion.scripts():
        path = share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return share


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, share: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    name: str = request.param
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on PATH")
    home = tmp_path_factory.mktemp("home")
    # Commands that exist, so that shells look for their completion.
    for command in ("flux", "flux-start"):
        (home / command).write_text("#!/bin/sh\n")
        (home / command).chmod(0o755)
    environ = {
        "HOME": str(home),
        "PATH": f"{home}:/usr/bin:/bin",
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "PS1": "> ",
        "COLUMNS": "200",
        "XDG_CONFIG_HOME": str(home),
        "XDG_DATA_HOME": str(home),
    }
    if name == "bash":
        sources = " ".join(str(file) for file in sorted((share / "bash-completion/completions").iterdir()))
        argv = [path, "--norc", "--noprofile", "-i"]
        set_up = f"for f in {sources}; do . $f; done; bind 'set bell-style none'"
    elif name == "zsh":
        set_up = f"fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D; PS1='> '"
        argv = [path, "-f", "-i"]
    else:
        argv = [path, "--no-config", "-i"]
        set_up = f"set -p fish_complete_path {share}/fish/vendor_completions.d"
    shell = Shell(argv, environ, set_up)
    yield shell
    shell.close()


def test_command(shell: Shell) -> None:
    shell.complete("flux bulk", "flux bulksubmit")


def test_subcommand_of_a_subcommand(shell: Shell) -> None:
    shell.complete("flux kvs namespace crea", "namespace create")
    shell.complete("flux job wait-e", "job wait-event")


def test_option(shell: Shell) -> None:
    shell.complete("flux run --job-na", "--job-name")
    shell.complete("flux-start --test-si", "--test-size")


def test_value(shell: Shell) -> None:
    shell.complete("flux-start --broker=embe", "--broker=embedded")
    shell.complete("flux-start --test-start-mode=lea", "--test-start-mode=leader")


def test_program(shell: Shell) -> None:
    shell.complete("flux-start -s2 hostnamec", "hostnamectl" if shutil.which("hostnamectl") else "hostnamec")


@pytest.mark.parametrize("topic", [flux_topic(), flux_start_topic()], ids=["flux", "flux-start"])
def test_scripts_have_every_option(topic: Topic) -> None:
    bash, zsh, fish = completion.bash(topic), completion.zsh(topic), completion.fish(topic)
    names = {option.name for each in topic.walk() for option in each.options if option.name and not option.hidden}
    assert len(names) > 20
    for name in names:
        assert f"--{name}" in bash
        assert f"--{name}" in zsh
        assert f" -l {name} " in fish
