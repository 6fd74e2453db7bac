"""The broker's directories, with the errors of flux-core 0.88, and the `flux` command in its rundir."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker import rundir as rundir_module
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.rundir import MAX_RUNDIR, Cleanup, create_directory, write_flux_script
from pytest_flux.protocol.errors import FluxError

PACKAGE = Path(rundir_module.__file__).parent.parent

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may do it")


@pytest.fixture
def attributes() -> Attributes:
    return Attributes()


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A new directory whose path leaves room for a socket's name."""
    attributes = Attributes()
    cleanup = create_directory(attributes, "rundir", "/tmp")
    assert cleanup is not None
    yield cleanup.path
    assert cleanup.remove()


def refusal(attributes: Attributes, name: str, base: str) -> tuple[int, str | None]:
    with pytest.raises(FluxError) as raised:
        create_directory(attributes, name, base)
    return raised.value.errnum, raised.value.text


class TestDirectories:
    @pytest.mark.parametrize("name", ["rundir", "statedir"])
    def test_unset_makes_one(self, attributes: Attributes, short_path: str, name: str) -> None:
        cleanup = create_directory(attributes, name, short_path)
        path = attributes.get(name)
        assert path is not None
        assert cleanup is not None
        assert path.startswith(f"{short_path}/flux-")
        assert os.stat(path).st_mode & 0o7777 == 0o700
        assert attributes.get(f"{name}-cleanup") == "1"
        assert cleanup.remove()
        assert os.listdir(short_path) == []

    def test_missing_is_made(self, attributes: Attributes, short_path: str) -> None:
        attributes.set("statedir", f"{short_path}/new")
        cleanup = create_directory(attributes, "statedir", "/nowhere")
        assert cleanup is not None
        assert attributes.get("statedir") == f"{short_path}/new"
        assert attributes.get("statedir-cleanup") == "1"
        assert cleanup.remove()
        assert not os.path.exists(f"{short_path}/new")

    def test_existing_is_kept(self, attributes: Attributes, short_path: str) -> None:
        attributes.set("rundir", short_path)
        assert create_directory(attributes, "rundir", "/nowhere") is None
        assert attributes.get("rundir-cleanup") == "0"

    @pytest.mark.parametrize(("wanted", "kept"), [("1", False), ("yes", False), ("0", True), (None, True)])
    def test_cleanup_is_the_users_choice(
        self, attributes: Attributes, tmp_path: Path, wanted: str | None, kept: bool
    ) -> None:
        attributes.set("statedir", str(tmp_path / "s"))
        attributes.set("statedir-cleanup", wanted)
        assert (create_directory(attributes, "statedir", "/nowhere") is None) == kept
        assert attributes.get("statedir-cleanup") == wanted

    def test_a_place_like_tmp_gets_one_inside(self, attributes: Attributes, short_path: str) -> None:
        os.chmod(short_path, 0o1777)
        attributes.set("rundir", short_path)
        cleanup = create_directory(attributes, "rundir", "/nowhere")
        assert cleanup is not None
        assert str(attributes.get("rundir")).startswith(f"{short_path}/flux-")
        assert attributes.get("rundir") == cleanup.path

    def test_a_relative_path_is_removed_wherever_the_broker_goes(
        self, attributes: Attributes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        attributes.set("statedir", "relative")
        cleanup = create_directory(attributes, "statedir", "/nowhere")
        assert cleanup is not None
        assert attributes.get("statedir") == "relative"
        monkeypatch.chdir("/")
        assert cleanup.remove()
        assert not (tmp_path / "relative").exists()

    def test_a_path_as_long_as_sockets_allow(self, attributes: Attributes, short_path: str) -> None:
        longest = f"{short_path}/" + "x" * (MAX_RUNDIR - len(short_path) - 1)
        attributes.set("rundir", longest)
        create_directory(attributes, "rundir", "/nowhere")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{longest}/local-9999")

    def test_a_path_too_long_for_sockets(self, attributes: Attributes, short_path: str) -> None:
        longer = f"{short_path}/" + "x" * (MAX_RUNDIR - len(short_path))
        attributes.set("rundir", longer)
        text = (
            f"rundir length of {MAX_RUNDIR + 1} bytes exceeds max {MAX_RUNDIR} to allow for AF_UNIX socket creation."
        )
        assert refusal(attributes, "rundir", "/nowhere") == (errno.ENAMETOOLONG, text)
        assert os.listdir(short_path) == []  # What was made for nothing is gone.

    def test_a_statedir_may_be_that_long(self, attributes: Attributes, tmp_path: Path) -> None:
        attributes.set("statedir", str(tmp_path / ("x" * 200)))
        assert create_directory(attributes, "statedir", "/nowhere") is not None

    def test_a_file(self, attributes: Attributes, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        attributes.set("rundir", str(path))
        assert refusal(attributes, "rundir", "/") == (errno.ENOTDIR, f"rundir {path}: Not a directory")

    def test_no_parent(self, attributes: Attributes, tmp_path: Path) -> None:
        attributes.set("rundir", f"{tmp_path}/nope/nope")
        text = f"rundir error creating {tmp_path}/nope/nope: No such file or directory"
        assert refusal(attributes, "rundir", "/") == (errno.ENOENT, text)

    def test_no_base(self, attributes: Attributes) -> None:
        text = "statedir cannot create directory in /nonexist: No such file or directory"
        assert refusal(attributes, "statedir", "/nonexist") == (errno.ENOENT, text)
        assert "statedir" not in attributes

    def test_no_access(self, attributes: Attributes, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        attributes.set("rundir", str(tmp_path))
        text = f"rundir {tmp_path} does not have owner=rwx permissions"
        assert refusal(attributes, "rundir", "/") == (errno.EPERM, text)

    def test_owned_by_another(self, attributes: Attributes, tmp_path: Path) -> None:
        path = "/"
        if os.geteuid() == 0:
            path = str(tmp_path)
            os.chown(path, 1000, 1000)
        attributes.set("rundir", path)
        text = f"rundir {path} is not owned by instance owner: Operation not permitted"
        assert refusal(attributes, "rundir", "/") == (errno.EPERM, text)

    def test_no_value(self, attributes: Attributes) -> None:
        attributes.set("rundir", None)
        assert refusal(attributes, "rundir", "/") == (errno.EINVAL, "rundir attribute has no value")

    def test_a_link_to_nowhere(self, attributes: Attributes, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to("nowhere")
        attributes.set("statedir", str(link))
        assert refusal(attributes, "statedir", "/")[0] == errno.ENOENT


class TestCleanup:
    def test_everything_below_goes_and_nothing_outside(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").touch()
        directory = tmp_path / "d"
        (directory / "sub" / "sub").mkdir(parents=True)
        (directory / "sub" / "link").symlink_to(outside)
        (directory / "link").symlink_to(outside / "precious")
        os.mkfifo(directory / "fifo")
        (directory / "sub" / "closed").mkdir()
        (directory / "sub" / "closed" / "file").touch()
        (directory / "sub" / "closed").chmod(0)
        assert Cleanup.of(str(directory)).remove()
        assert sorted(os.listdir(tmp_path)) == ["outside"]
        assert os.listdir(outside) == ["precious"]

    def test_what_took_its_place_is_left_alone(self, tmp_path: Path) -> None:
        directory = tmp_path / "d"
        directory.mkdir()
        cleanup = Cleanup.of(str(directory))
        directory.rename(tmp_path / "moved")
        directory.symlink_to(tmp_path)
        assert cleanup.remove()
        directory.unlink()
        directory.mkdir()
        (directory / "precious").touch()
        assert cleanup.remove()
        assert sorted(os.listdir(tmp_path)) == ["d", "moved"]
        assert os.listdir(directory) == ["precious"]

    def test_twice(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        cleanup = Cleanup.of(str(tmp_path / "d"))
        assert cleanup.remove()
        assert cleanup.remove()

    def test_not_by_a_child(self, tmp_path: Path) -> None:
        cleanup = Cleanup.of(str(tmp_path))
        child = os.fork()
        if child == 0:
            cleanup.remove()
            os._exit(0)
        os.waitpid(child, 0)
        assert tmp_path.exists()

    @unprivileged
    def test_it_tells_if_something_stays(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        cleanup = Cleanup.of(str(tmp_path / "d"))
        tmp_path.chmod(0o500)
        try:
            assert not cleanup.remove()
        finally:
            tmp_path.chmod(0o700)


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
        for name in ("broker/attributes.py", "broker/rundir.py", "protocol/errors.py", "record.py"):
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
            "import sys; from pytest_flux.broker.rundir import write_flux_script\n"
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


class TestScript:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Tree:
        return Tree(tmp_path / "tree")

    @pytest.fixture
    def rundir(self, tmp_path: Path) -> Path:
        (tmp_path / "run").mkdir()
        return tmp_path / "run"

    @pytest.fixture
    def trap(self, tmp_path: Path, rundir: Path) -> Path:
        """A current directory that must not be imported from; nor may the directory of the script."""
        trap = tmp_path / "trap"
        (rundir / "bin").mkdir()
        for directory in (trap / "pytest_flux", rundir / "bin" / "pytest_flux"):
            directory.mkdir(parents=True)
            (directory / "__init__.py").write_text("raise SystemExit('trapped')")
        return trap

    def test_from_a_source_tree(self, tree: Tree, rundir: Path, trap: Path) -> None:
        tree.write_script(rundir)
        told = run_script(rundir, trap)
        assert told["executable"] == sys.executable
        assert told["file"] == f"{tree.root}/pytest_flux/cli/flux.py"
        assert told["path"][-1] == str(tree.root)
        assert not {"", str(trap), f"{rundir}/bin"} & set(told["path"])

    def test_where_the_package_can_be_imported(self, tree: Tree, rundir: Path, trap: Path) -> None:
        tree.write_script(rundir)
        told = run_script(rundir, trap, PYTHONPATH=str(tree.root))
        assert told["path"].count(str(tree.root)) == 1
        assert told["path"][0] == str(tree.root)

    def test_where_another_version_can(self, tree: Tree, rundir: Path, trap: Path, tmp_path: Path) -> None:
        tree.write_script(rundir)
        other = Tree(tmp_path / "other")
        (other.root / "pytest_flux" / "__init__.py").write_text("from pytest_flux.cli import flux\n")
        told = run_script(rundir, trap, PYTHONPATH=str(other.root))
        assert told["file"] == f"{tree.root}/pytest_flux/cli/flux.py"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has it first")
    def test_where_python_is_safe_already(self, tree: Tree, rundir: Path, trap: Path) -> None:
        tree.write_script(rundir)
        told = run_script(rundir, trap, PYTHONSAFEPATH="1")
        assert told["path"][0].endswith(".zip")

    @pytest.mark.parametrize("name", ["with blanks", 'it\'s "$HOME" `x` \\n', "l" * 120, "new\nline"])
    def test_any_path_of_an_interpreter(self, tree: Tree, rundir: Path, trap: Path, name: str) -> None:
        python = rundir.parent / name / "python"
        python.parent.mkdir()
        python.symlink_to(os.path.realpath(sys.executable))
        tree.write_script(rundir, str(python))
        told = run_script(rundir, trap)
        assert told["executable"] == str(python)
        assert told["file"] == f"{tree.root}/pytest_flux/cli/flux.py"
        assert not {"", str(trap), f"{rundir}/bin"} & set(told["path"])

    def test_any_path_of_a_tree(self, rundir: Path, trap: Path, tmp_path: Path) -> None:
        tree = Tree(tmp_path / "a tree {of} 'many' \"things\" \xe4")
        tree.write_script(rundir)
        assert run_script(rundir, trap)["path"][-1] == str(tree.root)

    def test_anyone_may_run_it_whatever_the_umask(self, tree: Tree, rundir: Path) -> None:
        tree.write_script(rundir, umask=0o077)
        assert (rundir / "bin" / "flux").stat().st_mode & 0o777 == 0o755

    def test_many_brokers_write_it_at_once_while_it_runs(self, tree: Tree, rundir: Path, trap: Path) -> None:
        tree.write_script(rundir)
        writers = [tree.writer(rundir, times=50) for _ in range(4)]
        try:
            while any(writer.poll() is None for writer in writers):
                run_script(rundir, trap)
        finally:
            codes = [writer.wait() for writer in writers]
        assert codes == [0] * 4
        assert sorted(os.listdir(rundir / "bin")) == ["flux", "pytest_flux"]

    def test_whoever_makes_bin_can_remove_it(self, rundir: Path) -> None:
        first = write_flux_script(str(rundir), sys.executable)
        assert write_flux_script(str(rundir), sys.executable) is None
        assert first is not None
        assert first.remove()
        assert os.listdir(rundir) == []

    def test_a_link_is_replaced_not_written_through(self, rundir: Path, tmp_path: Path) -> None:
        target = tmp_path / "real-flux"
        target.write_text("real")
        (rundir / "bin").mkdir()
        (rundir / "bin" / "flux").symlink_to(target)
        write_flux_script(str(rundir), sys.executable)
        assert target.read_text() == "real"
        assert not (rundir / "bin" / "flux").is_symlink()

    def test_errors(self, rundir: Path) -> None:
        with pytest.raises(FluxError, match="no path to Python in ''"):
            write_flux_script(str(rundir), "")
        (rundir / "bin").touch()
        with pytest.raises(FluxError) as raised:
            write_flux_script(str(rundir), sys.executable)
        assert raised.value.text == f"rundir cannot write {rundir}/bin/flux: Not a directory"
