"""Manual pages: written from the tables, without a mistake in their language, and shown by ``flux help``."""

from __future__ import annotations

import os
import pty
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_flux.cli import manual
from pytest_flux.cli.commands import TABLE
from pytest_flux.cli.topics import flux_topic
from pytest_flux.plugin import options

ROOT = Path(__file__).parent.parent.parent
WRITE = runpy.run_path(str(ROOT / "docs" / "manual.py"))["write"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prefix")
    WRITE(directory)
    return directory / "share"


def unescaped(text: str) -> str:
    for code, letter in (("\\-", "-"), ("\\(aq", "'"), ("\\(ga", "`"), ("\\(ha", "^"), ("\\fB", ""), ("\\fR", "")):
        text = text.replace(code, letter)
    return text


def test_every_command_has_a_page(installed: Path) -> None:
    pages = {path.name for path in (installed / "man/man1").iterdir()}
    assert pages == {"flux.1", "flux-start.1", *(f"flux-{entry.name}.1" for entry in TABLE)}
    for topic in flux_topic().subtopics:
        text = unescaped((installed / f"man/man1/{topic.name.replace(' ', '-')}.1").read_text(encoding="utf-8"))
        for each in topic.walk():
            for option in each.options:
                assert option.hidden or not option.name or f"--{option.name}" in text, (each.name, option.name)


def test_page_of_the_plugin_has_every_option(installed: Path) -> None:
    text = unescaped((installed / "man/man7/pytest-flux.7").read_text(encoding="utf-8"))
    for setting in (*options.SHAPE, *options.RUN):
        assert f"--flux-{setting.name.replace('_', '-')}" in text
    assert "flux_instance_factory" in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff on PATH")
def test_pages_are_without_mistakes(installed: Path) -> None:
    pages = [str(path) for path in sorted((installed / "man").glob("man*/*"))]
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", *pages], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_is_no_command() -> None:
    assert manual.escaped(".SH -x 'y' \\z") == "\\&.SH \\-x \\(aqy\\(aq \\ez"
    assert manual.quoted('a "b"') == '"a \\(dqb\\(dq"'


@pytest.mark.skipif(shutil.which("man") is None, reason="no man on PATH")
def test_help_shows_the_page_on_a_terminal(tmp_path: Path) -> None:
    environ = {**os.environ, "MANPAGER": "cat", "TERM": "dumb", "MANWIDTH": "80", "TMPDIR": str(tmp_path)}
    leader, follower = pty.openpty()
    argv = [sys.executable, "-m", "pytest_flux.cli.flux", "help", "run"]
    with subprocess.Popen(argv, stdin=follower, stdout=follower, stderr=follower, env=environ) as running:
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 65536):
                shown += data
        except OSError:
            # The end of a terminal.
            pass
        os.close(leader)
    assert running.returncode == 0
    assert b"FLUX-RUN(1)" in shown
    # Bold letters are typed twice, one over the other.
    assert b"--time-limit=" in re.sub(rb".\x08", b"", shown)
    assert list(tmp_path.iterdir()) == []


def test_help_is_text_for_a_pipe() -> None:
    argv = [sys.executable, "-m", "pytest_flux.cli.flux", "help", "run"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Usage: flux run [OPTIONS...]")


@pytest.mark.slow
def test_wheel_installs_them(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "tests", "benchmarks", "__pycache__"))
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = wheel.name.partition("-py3")[0] + ".data/data/share"
    wanted = [
        *("man/man1/flux-start.1", "man/man1/flux-run.1", "man/man7/pytest-flux.7"),
        *(
            "bash-completion/completions/flux",
            "zsh/site-functions/_flux-start",
            "fish/vendor_completions.d/flux.fish",
        ),
    ]
    assert [name for name in wanted if f"{data}/{name}" not in names] == []
    assert {"pytest_flux/report/page.html", "pytest_flux/report/page.css", "pytest_flux/report/page.js"} <= set(names)
    assert not list(source.glob("pytest-flux-*"))
