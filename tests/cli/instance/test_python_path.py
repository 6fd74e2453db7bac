"""PYTHONPATH of what an embedded instance runs, and of a real Flux inside one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import pytest_flux
from pytest_flux import FluxInstance, bindings, python_path
from pytest_flux.launcher.command import broker_environ
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.spec import LaunchSpec

OURS = bindings.directory()
WHICH = "import _flux._core as core, flux; print(core.__file__, flux.Flux().attr_get('size'))"


@pytest.fixture(scope="module")
def instance() -> Iterator[FluxInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "/users")
        with pytest_flux.start(broker="embedded") as running:
            yield running


def output(instance: FluxInstance, *command: str) -> str:
    return instance.run(command, check=True).stdout


def test_programs_and_jobs_have_it(instance: FluxInstance) -> None:
    places = output(instance, "printenv", "PYTHONPATH").rstrip().split(":")
    assert (places[0], places[-1]) == (OURS, "/users")
    assert output(instance, "flux", "run", "printenv", "PYTHONPATH").rstrip().split(":") == places
    assert output(instance, "flux", "start", "printenv", "PYTHONPATH").rstrip().split(":") == places


def test_commands_set_it(instance: FluxInstance) -> None:
    """As flux-core's do, wherever they run."""
    bare = {"env": {**instance.env, "PYTHONPATH": "/users"}}
    shown = instance.run(["flux", "env"], **bare).stdout
    value = next(line for line in shown.splitlines() if line.startswith("export PYTHONPATH="))
    assert value.startswith(f'export PYTHONPATH="{OURS}:')
    assert instance.run(["flux", "env", "printenv", "PYTHONPATH"], **bare).stdout.startswith(f"{OURS}:")
    script = "import os; print(os.environ['PYTHONPATH'])"
    assert instance.run(["flux", "python", "-c", script], **bare).stdout.startswith(f"{OURS}:")
    assert output(instance, "flux", "python", "--get-path") == f"{OURS}\n"


def test_the_value_keeps_what_users_have() -> None:
    environ = {"PYTHONPATH": f"/a::{OURS}:/b", "XDG_DATA_HOME": "/nowhere"}
    assert python_path.with_stand_in(environ) == f"{OURS}:/a::/b"
    assert python_path.without_stand_in(environ) == "/a::/b"
    assert python_path.with_stand_in({"PYTHONPATH": "", "XDG_DATA_HOME": "/nowhere"}) == OURS
    assert python_path.without_stand_in({"PYTHONPATH": OURS, "XDG_DATA_HOME": "/nowhere"}) is None


@pytest.mark.parametrize(("value", "expected"), [(OURS, None), (f"{OURS}:/users", "/users"), ("/users", "/users")])
def test_real_brokers_do_not_get_it(value: str, expected: str | None) -> None:
    engine = Engine("system", "/nowhere/flux-broker", {})
    environ = broker_environ(LaunchSpec(), engine, None, "", {"PYTHONPATH": value})
    assert environ.get("PYTHONPATH") == expected


@pytest.mark.system_flux
def test_a_real_flux_inside_finds_its_own(instance: FluxInstance, system_flux: str) -> None:
    core, size = output(instance, system_flux, "python", "-c", WHICH).split()
    assert not core.startswith(OURS)
    assert size == "1"
    assert "JOBID" in output(instance, system_flux, "jobs", "-a")


@pytest.mark.system_flux
def test_real_files_behind_ours_find_their_own(instance: FluxInstance, system_flux: str) -> None:
    """As in a program whose author has put Flux's own bindings on PYTHONPATH."""
    script = "import os, sys, flux; print(sys.executable, os.path.dirname(os.path.dirname(flux.__file__)))"
    python, place = output(instance, system_flux, "python", "-c", script).split()
    environ = {**instance.env, "PYTHONPATH": f"{OURS}:{place}"}
    done = instance.run([python, "-c", WHICH], env=environ, check=True)
    assert done.stdout.split() == [os.path.join(place, "_flux", "_core.so"), "1"]


@pytest.mark.system_flux
def test_a_real_instance_inside_has_its_own(instance: FluxInstance, system_flux: str) -> None:
    environ = {**instance.env, "PATH": f"{os.path.dirname(system_flux)}:{instance.env['PATH']}"}
    command = [sys.executable, "-m", "pytest_flux.cli.flux_start", "-s1", "--broker=system", "printenv", "PYTHONPATH"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "/users\n"
