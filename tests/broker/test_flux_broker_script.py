"""The executable that stands for the embedded broker: which Python it becomes, and what that can import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_flux

SCRIPT = Path(pytest_flux.__file__).parent / "libexec" / "flux-broker"

MAIN = """
import json, os, sys
def main():
    print(json.dumps({"argv": sys.argv, "path": sys.path, "pid": os.getpid(), "file": __file__}))
    return 3
"""


def install(library: Path) -> Path:
    """A package whose broker tells how it was started, with the real script in it."""
    package = library / "pytest_flux"
    (package / "broker").mkdir(parents=True)
    (package / "libexec").mkdir()
    (package / "__init__.py").touch()
    (package / "broker" / "__init__.py").touch()
    (package / "broker" / "main.py").write_text(MAIN)
    return Path(shutil.copy(SCRIPT, package / "libexec"))


def fake_python(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\necho "$0" "$@"\n')
    path.chmod(0o755)
    return path


def run(script: Path, *args: str, **environ: str) -> str:
    variables = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run([script, *args], stdout=subprocess.PIPE, text=True, env=variables).stdout.strip()


def test_it_becomes_the_broker(tmp_path: Path) -> None:
    script = install(tmp_path / "src")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "pytest_flux.py").write_text("raise SystemExit('the working directory is on sys.path')")
    process = subprocess.Popen(
        [script, "-Sa=b c", "prog"],
        stdout=subprocess.PIPE,
        cwd=tmp_path / "cwd",
        env={**os.environ, "PYTEST_FLUX_PYTHON": sys.executable},
    )
    output, _ = process.communicate()
    told = json.loads(output)
    assert process.returncode == 3
    assert told["pid"] == process.pid
    assert told["argv"] == [str(script), "-Sa=b c", "prog"]
    assert told["file"] == str(tmp_path / "src/pytest_flux/broker/main.py")
    assert str(script.parent) not in told["path"]
    assert "" not in told["path"]


def test_a_package_that_python_finds_by_itself_does_not_hide_the_standard_library(tmp_path: Path) -> None:
    script = install(tmp_path / "src")
    library = str(tmp_path / "src")
    told = json.loads(run(script, PYTEST_FLUX_PYTHON=sys.executable, PYTHONPATH=f"/nowhere:{library}"))
    assert told["path"].count(library) == 1
    assert told["path"][0] == "/nowhere"


def test_a_link_to_it_will_do(tmp_path: Path) -> None:
    script = install(tmp_path / "src")
    link = tmp_path / "flux-broker"
    link.symlink_to(script)
    told = json.loads(run(link, PYTEST_FLUX_PYTHON=sys.executable))
    assert told["file"] == str(tmp_path / "src/pytest_flux/broker/main.py")


@pytest.mark.parametrize("library", ["lib/python3.99/site-packages", "lib64/python3/dist-packages"])
def test_installed_it_takes_the_python_of_its_prefix(tmp_path: Path, library: str) -> None:
    script = install(tmp_path / library)
    version = fake_python(tmp_path / "bin" / library.split("/")[1])
    fake_python(tmp_path / "bin/python3")
    assert run(script, "x") == f"{version} {script} x"


def test_a_prefix_may_have_only_python3(tmp_path: Path) -> None:
    script = install(tmp_path / "lib/python3.99/site-packages")
    python = fake_python(tmp_path / "bin/python3")
    assert run(script, "x") == f"{python} {script} x"
    assert run(script, "x", PYTEST_FLUX_PYTHON="/bin/echo") == f"{script} x"


def test_elsewhere_it_takes_the_python_on_the_path(tmp_path: Path) -> None:
    # As deep as an installed one, above which there is a bin as well: it has nothing to say.
    script = install(tmp_path / "a/b/c")
    fake_python(tmp_path / "bin/python3")
    python = fake_python(tmp_path / "path/python3")
    assert run(script, "x", PATH=f"{python.parent}:{os.environ['PATH']}") == f"{python} {script} x"


def test_called_by_a_relative_path(tmp_path: Path) -> None:
    script = install(tmp_path / "lib/python3.99/site-packages")
    python = fake_python(tmp_path / "bin/python3.99")
    result = subprocess.run(
        ["./flux-broker"], cwd=script.parent, stdout=subprocess.PIPE, text=True, env={"PATH": os.defpath}
    )
    assert result.stdout.split()[0] == str(python)
