"""What type checkers refuse and accept."""

from __future__ import annotations

from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api", reason="mypy is not installed")

WRONG = {
    'pytest_flux.start(size="3")': "arg-type",
    "pytest_flux.start(siez=3)": "call-arg",
    'flux.submit(["true"], ntasks=3)': "call-arg",
    'flux.submit(["true"], num_tasks="3")': "arg-type",
    "flux.submit(3)": "arg-type",
    "pytest_flux.mark(siez=3)": "call-arg",
    "pytest_flux.mrak(size=3)": "attr-defined",
    'factory(size="3")': "arg-type",
    "pytest_flux.flux_instance(siez=3)": "call-arg",
}
RIGHT = """
import pathlib
import pytest_flux

grid = pytest_flux.flux_instance(size=[1, 2], conf=lambda request: {"queues": {}}, autouse=True, scope="module")

@pytest_flux.mark(size=[1, 4], attrs={"a": 1}, fresh=True)
def test_it(flux_instance: pytest_flux.FluxInstance, factory: pytest_flux.FluxInstanceFactory) -> None:
    job: pytest_flux.Job = flux_instance.submit("echo hi", num_tasks=2, time_limit="5m", env={"A": "1"})
    flux_instance.submit(pathlib.Path("/bin/true"), cwd=pathlib.Path("/"))
    flux_instance.submit([pathlib.Path("/bin/echo"), "x"], nodes=1)
    result: pytest_flux.JobResult = job.result()
    output: pytest_flux.JobOutput = job.output()
    kvs: pytest_flux.Kvs = flux_instance.kvs
    other: pytest_flux.FluxInstance = factory(size=3, personality="job")
    with pytest_flux.start(size=3) as flux:
        flux.run("true", check=True)
    kept = pytest_flux.start()
    kept.stop()
"""


def test_mypy(tmp_path: Path) -> None:
    lines = ["import pytest_flux", "flux: pytest_flux.FluxInstance", "factory: pytest_flux.FluxInstanceFactory"]
    (tmp_path / "wrong.py").write_text("\n".join([*lines, *WRONG]) + "\n")
    (tmp_path / "right.py").write_text(RIGHT)
    options = ["--strict", f"--cache-dir={tmp_path}/cache", "--no-error-summary", "--config-file="]
    stdout, stderr, _ = api.run([*options, str(tmp_path / "wrong.py"), str(tmp_path / "right.py")])
    found = {}
    for line in stdout.splitlines():
        place, _, text = line.partition(": error: ")
        if text and "wrong.py" in place:
            found[int(place.rpartition(":")[2])] = text.rpartition("[")[2].rstrip("]")
    assert "right.py" not in stdout, stdout
    assert found == dict(enumerate(WRONG.values(), len(lines) + 1)), stdout + stderr
