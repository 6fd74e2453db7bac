"""The `flux` command in a broker's rundir: what it runs, started from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_flux
from pytest_flux.broker.boot.flux_script import write_flux_script
from pytest_flux.protocol.errors import FluxError

PACKAGE = Path(pytest_flux.__file__).parent

MAIN = """\
import json, sys
def main():
    print(json.dumps({"argv": sys.argv, "path": sys.path, "file": __file__, "executable": sys.executable}))
    return 7
"""


class Tree:
    """A source tree with a package like ours, whose `flux` tells how it was started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        package = root / "pytest_flux"
        for name in ("broker/boot/flux_script.py", "protocol/errors.py"):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACKAGE / name, package / name)
        for name in ("", "broker", "protocol", "cli"):
            (package / name).mkdir(exist_ok=True)
            (package / name / "__init__.py").touch()
        (package / "cli" / "flux.py").write_text(MAIN)

    def write_script(self, rundir: Path, python: str = sys.executable, umask: int = 0o022) -> None:
        """As a broker would that has its package from this tree."""
        with self.writer(rundir, python, umask) as writer:
            assert writer.wait() == 0

    def writer(
        self, rundir: Path, python: str = sys.executable, umask: int = 0o022, times: int = 1
    ) -> subprocess.Popen[bytes]:
        """The same, not yet finished."""
        program = (
            "import sys; from pytest_flux.broker.boot.flux_script import write_flux_script\n"
            "for _ in range(int(sys.argv[3])): write_flux_script(*sys.argv[1:3])"
        )
        command = [sys.executable, "-c", program, str(rundir), python, str(times)]
        # The current directory comes first where Python takes a program from its command line.
        return subprocess.Popen(command, cwd=self.root, umask=umask)


def run_script(rundir: Path, cwd: Path, **environ: str) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [f"{rundir}/bin/flux", "a b", "", "$x'\""]
    done = subprocess.run(command, cwd=cwd, env={**env, **environ}, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 7
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["argv"] == command
    return told


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


@pytest.fixture
def rundir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def trap(tmp_path: Path, rundir: Path) -> Path:
    """A current directory that must not be imported from; nor may the directory of the script."""
    trap = tmp_path / "trap"
    (rundir / "bin").mkdir()
    for directory in (trap / "pytest_flux", rundir / "bin" / "pytest_flux"):
        directory.mkdir(parents=True)
        (directory / "__init__.py").write_text("raise SystemExit('trapped')")
    return trap


def test_from_a_source_tree(tree: Tree, rundir: Path, trap: Path) -> None:
    tree.write_script(rundir)
    told = run_script(rundir, trap)
    assert told["executable"] == sys.executable
    assert told["file"] == f"{tree.root}/pytest_flux/cli/flux.py"
    assert told["path"][-1] == str(tree.root)
    assert not {"", str(trap), f"{rundir}/bin"} & set(told["path"])


def test_where_the_package_can_be_imported(tree: Tree, rundir: Path, trap: Path) -> None:
    tree.write_script(rundir)
    told = run_script(rundir, trap, PYTHONPATH=str(tree.root))
    assert told["path"].count(str(tree.root)) == 1
    assert told["path"][0] == str(tree.root)


def test_where_another_version_can(tree: Tree, rundir: Path, trap: Path, tmp_path: Path) -> None:
    tree.write_script(rundir)
    other = Tree(tmp_path / "other")
    (other.root / "pytest_flux" / "__init__.py").write_text("from pytest_flux.cli import flux\n")
    told = run_script(rundir, trap, PYTHONPATH=str(other.root))
    assert told["file"] == f"{tree.root}/pytest_flux/cli/flux.py"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has it first")
def test_where_python_is_safe_already(tree: Tree, rundir: Path, trap: Path) -> None:
    tree.write_script(rundir)
    told = run_script(rundir, trap, PYTHONSAFEPATH="1")
    assert told["path"][0].endswith(".zip")


@pytest.mark.parametrize("name", ["with blanks", 'it\'s "$HOME" `x` \\n', "l" * 120, "new\nline"])
def test_any_path_of_an_interpreter(tree: Tree, rundir: Path, trap: Path, name: str) -> None:
    python = rundir.parent / name / "python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    tree.write_script(rundir, str(python))
    told = run_script(rundir, trap)
    assert told["executable"] == str(python)
    assert told["file"] == f"{tree.root}/pytest_flux/cli/flux.py"
    assert not {"", str(trap), f"{rundir}/bin"} & set(told["path"])


def test_any_path_of_a_tree(rundir: Path, trap: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "a tree {of} 'many' \"things\" \xe4")
    tree.write_script(rundir)
    assert run_script(rundir, trap)["path"][-1] == str(tree.root)


def test_anyone_may_run_it_whatever_the_umask(tree: Tree, rundir: Path) -> None:
    tree.write_script(rundir, umask=0o077)
    assert (rundir / "bin" / "flux").stat().st_mode & 0o777 == 0o755


def test_many_brokers_write_it_at_once_while_it_runs(tree: Tree, rundir: Path, trap: Path) -> None:
    tree.write_script(rundir)
    writers = [tree.writer(rundir, times=50) for _ in range(4)]
    try:
        while any(writer.poll() is None for writer in writers):
            run_script(rundir, trap)
    finally:
        codes = [writer.wait() for writer in writers]
    assert codes == [0] * 4
    assert sorted(os.listdir(rundir / "bin")) == ["flux", "pytest_flux"]


def test_a_link_is_replaced_not_written_through(rundir: Path, tmp_path: Path) -> None:
    target = tmp_path / "real-flux"
    target.write_text("real")
    (rundir / "bin").mkdir()
    (rundir / "bin" / "flux").symlink_to(target)
    write_flux_script(str(rundir), sys.executable)
    assert target.read_text() == "real"
    assert not (rundir / "bin" / "flux").is_symlink()


def test_errors(rundir: Path) -> None:
    with pytest.raises(FluxError, match="no path to Python in ''"):
        write_flux_script(str(rundir), "")
    (rundir / "bin").touch()
    with pytest.raises(FluxError) as raised:
        write_flux_script(str(rundir), sys.executable)
    assert raised.value.text == f"rundir cannot write {rundir}/bin/flux: Not a directory"
