"""A recorded session of flux-core 0.88's `flux kvs` and `flux content`: ours and theirs do the same on our broker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.launcher.sessions import DEADLINE
from tests.parity.instances import Engine, Running

DATA = Path(__file__).parent / "data"


class Step(NamedTuple):
    """A command line for a shell, and what became of it. Input is closed, the namespace is a new one."""

    command: str
    code: int
    stdout: str
    stderr: str


STEPS = [Step(**step) for step in json.loads((DATA / "kvs-session.json").read_text())]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Engine("embedded", os.environ.get("PATH", os.defpath)).running("-s2") as running:
        yield running


def replay(running: Running, path: str, namespace: str) -> list[Step]:
    """Run the commands of the session, with the `flux` that is in ``path``, on rank 1."""
    environ = {**os.environ, "TZ": "UTC", "FLUX_KVS_NAMESPACE": namespace, "PATH": f"{path}:{os.environ['PATH']}"}
    environ["FLUX_URI"] = f"local://{running.rundir}/local-1"
    environ.pop("COLUMNS", None)

    def run(command: str) -> Step:
        done = subprocess.run(
            command, shell=True, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE
        )
        return Step(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    assert run(f"flux kvs namespace create {namespace}").code == 0
    steps = [run(step.command) for step in STEPS]
    for name in (namespace, "n1", "n3", "copied"):
        assert run(f"flux kvs namespace remove {name}").code == 0
    return steps


@pytest.mark.slow
def test_our_commands(running: Running) -> None:
    assert replay(running, f"{running.rundir}/bin", "ours") == STEPS


@pytest.mark.slow
@pytest.mark.system_flux
def test_commands_of_a_real_flux(running: Running, system_flux: str) -> None:
    assert replay(running, os.path.dirname(system_flux), "theirs") == STEPS


BINDING = """
import errno, sys
import flux, flux.kvs
handle = flux.Flux()
flux.kvs.put(handle, "py.a", {"x": [1, None, "ü"]})
flux.kvs.put(handle, "py.b", "text")
flux.kvs.put_mkdir(handle, "py.d")
flux.kvs.put_symlink(handle, "py.l", "py.b")
flux.kvs.commit(handle)
assert flux.kvs.get(handle, "py.a") == {"x": [1, None, "ü"]}
assert flux.kvs.get(handle, "py.l") == "text"
assert flux.kvs.exists(handle, "py.d")
assert sorted(flux.kvs.get_dir(handle, "py").files()) == ["a", "b", "l"]
with flux.kvs.get_dir(handle, "py") as directory:
    directory["c"] = 5
    directory.commit()
assert flux.kvs.get(handle, "py.c") == 5
assert [path for path, _, _ in flux.kvs.walk("py", flux_handle=handle)] == ["d", ""]
flux.kvs.put_unlink(handle, "py.c")
flux.kvs.commit(handle)
try:
    flux.kvs.get(handle, "py.c")
except OSError as error:
    assert error.errno == errno.ENOENT
else:
    sys.exit("it is still there")
print("fine")
"""


@pytest.mark.system_flux
def test_the_python_binding_of_a_real_flux(running: Running, system_flux: str) -> None:
    environ = {**os.environ, "FLUX_URI": f"local://{running.rundir}/local-1"}
    done = subprocess.run(
        [system_flux, "python", "-c", BINDING], env=environ, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.system_flux
def test_a_real_broker_reads_what_ours_wrote_and_the_other_way_round(system_flux: str, tmp_path: Path) -> None:
    """One statedir, three instances of two kinds."""
    ours = Engine("embedded", os.environ.get("PATH", os.defpath))
    script = "set -e; {}; flux kvs put large=$(printf '%01000d' {}) small={}; flux kvs put -A -r log={}"
    statedir = f"-Sstatedir={tmp_path}"

    def start_ours(number: int, check: str) -> None:
        outcome = ours.run("-s1", statedir, "sh", "-c", script.format(check, number, number, number))
        assert (outcome.code, outcome.stderr) == (0, "")

    start_ours(1, "true")
    check = "test $(flux kvs get small) = 1; test $(flux kvs get log) = 1; flux kvs get large | grep 00001"
    command = [system_flux, "start", f"-o{statedir}", "sh", "-c", script.format(check, 2, 2, 2)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=DEADLINE)
    start_ours(3, 'test $(flux kvs get small) = 2; test "$(flux kvs get log)" = 12')
