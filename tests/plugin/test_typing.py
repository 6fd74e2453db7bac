"""What type checkers refuse and accept."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

WRONG = {
    'pytest_flux.start(size="3")': "arg-type",
    "pytest_flux.start(siez=3)": "call-arg",
    'flux.submit(["true"], ntasks=3)': "call-arg",
    'flux.submit(["true"], cores_per_tasks=3)': "call-arg",
    "pytest_flux.start(timeout=[1])": "arg-type",
    "pytest_flux.start(attrs=3)": "arg-type",
    'pytest_flux.mark(size="4")': "arg-type",
    "pytest_flux.flux_instance(size={})": "arg-type",
    'flux.submit(["true"], num_tasks="3")': "arg-type",
    "flux.submit(3)": "arg-type",
    "pytest_flux.mark(siez=3)": "call-arg",
    "pytest_flux.mrak(size=3)": "attr-defined",
    'factory(size="3")': "arg-type",
    "pytest_flux.flux_instance(siez=3)": "call-arg",
}
EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "project"
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
    async def wait(flux: pytest_flux.AsyncFluxInstance) -> pytest_flux.JobResult:
        async_job: pytest_flux.AsyncJob = await flux.submit("echo hi", nodes=1)
        return await async_job.result()

    with pytest_flux.start(size=3) as flux:
        flux.run("true", check=True)
    kept = pytest_flux.start()
    kept.stop()
"""


LINES = [
    "import pytest_flux",
    "def check(flux: pytest_flux.FluxInstance, factory: pytest_flux.FluxInstanceFactory) -> None:",
]
PYRIGHT = {
    "arg-type": "reportArgumentType",
    "call-arg": "reportCallIssue",
    "attr-defined": "reportAttributeAccessIssue",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "wrong.py").write_text("\n    ".join([*LINES, *WRONG]).replace("    def", "def") + "\n")
    (tmp_path / "right.py").write_text(RIGHT)
    for example in EXAMPLES.glob("*.py"):
        (tmp_path / f"right_{example.name}").write_text(example.read_text())
    return tmp_path


@pytest.mark.slow
def test_mypy(files: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    options = ["--strict", f"--cache-dir={files}/cache", "--no-error-summary", "--config-file="]
    stdout, stderr, _ = api.run([*options, *map(str, files.glob("*.py"))])
    found = {}
    for line in stdout.splitlines():
        place, _, text = line.partition(": error: ")
        if text and "wrong.py" in place:
            found[int(place.rpartition(":")[2])] = text.rpartition("[")[2].rstrip("]")
    assert "right" not in stdout, stdout
    assert found == dict(enumerate(WRONG.values(), len(LINES) + 1)), stdout + stderr


@pytest.mark.slow
def test_pyright(files: Path) -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "wrong.py",
        "right.py",
    ]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True)
    try:
        diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    except ValueError:
        pytest.skip(f"pyright does not run: {done.stderr}")
    assert not [each for each in diagnostics if "/right" in each["file"]], done.stdout
    found = {each["range"]["start"]["line"] + 1: each["rule"] for each in diagnostics}
    assert found == dict(enumerate((PYRIGHT[kind] for kind in WRONG.values()), len(LINES) + 1)), done.stdout
