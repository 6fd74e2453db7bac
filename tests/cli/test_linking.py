"""``flux-start --link`` and ``--install-bindings``."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux import python_path

ROOT = Path(pytest_flux.__file__).parent.parent


class Machine:
    """A machine without Flux: its PATH and its home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.environ = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
            "SHELL": "/bin/sh",
        }

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.home,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def flux_start(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pytest_flux.cli.flux_start", *arguments, **environ)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def instance() -> Iterator[pytest_flux.FluxInstance]:
    with pytest_flux.start(size=2, broker="embedded") as flux:
        yield flux


def test_start_as_in_continuous_integration(machine: Machine) -> None:
    done = machine.flux_start(f"--link={machine.bin}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{machine.bin}/flux: it is on PATH\n", "")
    done = machine.run("sh", "-c", "flux start -s2 flux exec -r all flux getattr size")
    assert (done.stdout, done.stderr) == ("2\n2\n", "")


def test_start_does_not_ask_the_link_what_it_is(machine: Machine) -> None:
    machine.flux_start(f"--link={machine.bin}")
    done = machine.run("flux", "start", "-v", "--noexec", "true")
    assert "pytest_flux/libexec/flux-broker" in done.stderr
    done = machine.run("flux", "start", "printenv", "FLUX_EXEC_PATH", FLUX_EXEC_PATH="/nowhere")
    assert done.stdout == f"{ROOT}/pytest_flux/libexec\n"


def test_other_commands_go_where_flux_uri_says(machine: Machine, instance: pytest_flux.FluxInstance) -> None:
    machine.flux_start(f"--link={machine.bin}")
    assert machine.run("flux", "getattr", "size", FLUX_URI=instance.uri).stdout == "2\n"
    lost = machine.run("flux", "getattr", "size")
    assert lost.returncode == 1
    assert "flux_open" in lost.stderr


def test_attach_is_the_instance_without_flux_uri(machine: Machine, instance: pytest_flux.FluxInstance) -> None:
    machine.flux_start(f"--link={machine.bin}", f"--attach={instance.uri}")
    assert machine.run("flux", "getattr", "size").stdout == "2\n"
    assert machine.run("flux", "getattr", "size", FLUX_URI="local:///nowhere").returncode == 1
    assert machine.run("flux", "start", "-s1", "flux", "getattr", "size").stdout == "1\n"


def test_a_link_can_be_written_anew(machine: Machine) -> None:
    for _ in range(2):
        assert machine.flux_start(f"--link={machine.bin}").returncode == 0
    assert os.listdir(machine.bin) == ["flux"]


@pytest.mark.parametrize("kind", ["file", "directory", "dangling"])
def test_what_is_not_ours_stays(machine: Machine, kind: str) -> None:
    machine.bin.mkdir()
    place = machine.bin / "flux"
    if kind == "file":
        place.write_text("#!/bin/sh\n")
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to("nowhere")
    done = machine.flux_start(f"--link={machine.bin}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"flux-start: --link={machine.bin}: {place}")


def test_it_does_not_hide_an_installed_flux(machine: Machine) -> None:
    broker = machine.home / "prefix/libexec/flux/cmd/flux-broker"
    flux = machine.home / "prefix/bin/flux"
    for program in (broker, flux):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    done = machine.flux_start(f"--link={machine.bin}", PATH=f"{flux.parent}:/usr/bin:/bin")
    assert done.returncode == 1
    text = f"{machine.bin}/flux would hide {flux}, which is that of an installed Flux"
    assert done.stderr == f"flux-start: --link={machine.bin}: {text}\n"
    assert not machine.bin.exists()


@pytest.mark.system_flux
def test_it_does_not_hide_a_real_flux(machine: Machine, system_flux: str) -> None:
    done = machine.flux_start(f"--link={machine.bin}", PATH=f"{os.path.dirname(system_flux)}:/usr/bin:/bin")
    assert "would hide" in done.stderr
    assert not machine.bin.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--link=x", "--attach=0"], "--attach=0: "),
        (["--link=x", "true"], "--link and --install-bindings take no command"),
        (["--install-bindings", "true"], "--link and --install-bindings take no command"),
        (["--link=/proc/nowhere"], "--link=/proc/nowhere: /proc/nowhere: No such file or directory"),
    ],
)
def test_mistakes(machine: Machine, arguments: list[str], text: str) -> None:
    done = machine.flux_start(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"flux-start: {text}")
    assert len(done.stderr.splitlines()) == 1


def test_bindings_from_the_wheel_of_another_platform(machine: Machine) -> None:
    """With a wheel that stands for PyPI's: its Python files, a C module that cannot be loaded, and more."""
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    info = f"flux_python-{python_path.FLUX_PYTHON}.dist-info"
    wheel = machine.home / f"flux_python-{python_path.FLUX_PYTHON}-{version}-{version}-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("flux/__init__.py", "from _flux._core import lib\nprint(lib.flux_core_version_string())\n")
        archive.writestr("_flux/_core.abi3.so", "for another machine")
        archive.writestr("src/__init__.py", "")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: flux-python\nVersion: {python_path.FLUX_PYTHON}\n"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {version}-{version}-manylinux_2_17_x86_64\n")
        archive.writestr(f"{info}/RECORD", "")
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(machine.home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = machine.flux_start("--install-bindings", **pip)
    directory = python_path.installed_files({"HOME": "", "XDG_DATA_HOME": str(machine.home / ".local/share")})
    assert done.returncode == 0, done.stderr
    assert f"--target {directory}" in done.stdout
    assert sorted(os.listdir(directory)) == ["_flux", "flux", info]
    ran = machine.flux_start("-s1", "--broker=embedded", sys.executable, "-S", "-c", "import flux")
    assert (ran.stdout, ran.stderr) == ("b'0.88.0'\n", "")
    assert "already" in machine.flux_start("--install-bindings", **pip).stdout


def test_bindings_that_pip_does_not_find(machine: Machine) -> None:
    done = machine.flux_start("--install-bindings", PIP_NO_INDEX="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "flux-start: --install-bindings: pip ended with exit code 1"
    assert os.listdir(machine.home / ".local/share/pytest-flux") == []
