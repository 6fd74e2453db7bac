"""The kill table: however pytest ends, nothing of an instance is left two seconds later."""

from __future__ import annotations

import importlib.util
import itertools
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from _pytest.mark import ParameterSet

from tests.leaks import wait_for_end

LIMIT = 2.0
START_LIMIT = 30.0
SOURCE = """
import os, signal, sys, time
import pytest, pytest_flux

shared = pytest_flux.flux_instance(size=2, shared=True)

# The start is not what is to be timed, on a busy machine least of all.
@pytest.mark.timeout(TIMEOUT, func_only=True)
def test(FIXTURE):
    FIXTURE.submit(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & sleep 1000"]).wait_event("start")
    try:
        with open("told", "w") as fifo:
            fifo.write(f"{os.getpid()} {FIXTURE.rundir}")
        HOW
        time.sleep(1000)
    finally:
        LAST
"""

# Has the second ^C come after the first has arrived.
TWICE = 'open("again", "w").close(); time.sleep(1000)'

SIGNALS = {
    "interrupt": signal.SIGINT,
    "interrupt twice": signal.SIGINT,
    "terminate": signal.SIGTERM,
    "kill": signal.SIGKILL,
    "hang up": signal.SIGHUP,
}
OWN = {
    "exit": "os._exit(3)",
    "abort": "os.abort()",
    "timeout": "signal.setitimer(signal.ITIMER_REAL, 0.1)",
    "timeout by thread": "pass",
}
PROCESSES = {
    "kill fork server": "flux-forkserver",
    "kill supervisor": "flux-supervisor",
    "kill broker": "flux-broker-0",
}
ALL = tuple(dict.fromkeys((*SIGNALS, *OWN, *PROCESSES, "kill worker", "kill front")))
SCOPES = ("function", "module", "session", "shared")
# The others are slow: what they add to these is that nothing depends on scope or workers. Of them, most are soaks.
QUICK = {("function", "none"): set(ALL), ("shared", "xdist"): {"kill worker"}}
SLOW = (("shared", "xdist"),)
SYSTEM = ("interrupt", "kill", "exit", "timeout by thread", "kill supervisor")


class Project:
    """A run of pytest of which everything can be found, whatever becomes of it."""

    def __init__(self, directory: Path, tmpdir: Path) -> None:
        self.directory = directory
        self.tmpdir = tmpdir
        self.token = f"PYTEST_FLUX_END_{uuid.uuid4().hex}"
        self.process: subprocess.Popen[bytes]

    def start(self, way: str, scope: str, workers: str, engine: str) -> tuple[int, str]:
        """Run until the test has its instance; the process that the test runs in, and its rundir."""
        fixture = "shared" if scope == "shared" else "flux_instance"
        timeout = {"timeout": "100", "timeout by thread": "2"}.get(way, "0")
        source = SOURCE.replace("FIXTURE", fixture).replace("HOW", OWN.get(way, "pass")).replace("TIMEOUT", timeout)
        source = source.replace("LAST", TWICE if way == "interrupt twice" and workers == "none" else "pass")
        (self.directory / "test_it.py").write_text(source)
        os.mkfifo(self.directory / "told")
        os.mkfifo(self.directory / "again")
        arguments = [f"--flux-broker={engine}", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:asyncio"]
        arguments += [f"--flux-scope={scope}"] if scope != "shared" else []
        arguments += ["-n2"] if workers == "xdist" else []
        arguments += ["--timeout-method=thread"] if way.endswith("thread") else []
        environ = {**os.environ, self.token: "1", "TMPDIR": str(self.tmpdir)}
        command = [sys.executable, "-m", "pytest", f"--basetemp={self.directory}/base", *arguments, "test_it.py"]
        with open(self.directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=environ, stdout=output, stderr=output, start_new_session=True
            )
        pid, _, rundir = self._listen().partition(" ")
        return int(pid), rundir

    def _listen(self) -> str:
        """What the test says when it is ready."""
        fifo = os.open(self.directory / "told", os.O_RDONLY | os.O_NONBLOCK)
        try:
            heard = select.poll()
            heard.register(fifo, select.POLLIN)
            assert heard.poll(1000 * START_LIMIT), (self.directory / "output").read_text()
            return os.read(fifo, 4096).decode()
        finally:
            os.close(fifo)

    def processes(self) -> list[psutil.Process]:
        """What runs of it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if self.token in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def named(self, name: str) -> psutil.Process:
        """The process that is called so."""
        return next(process for process in self.processes() if process.name() == name)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    tmpdir = Path(os.environ.get("TMPDIR", "/tmp")) / uuid.uuid4().hex[:6]
    tmpdir.mkdir()
    project = Project(tmp_path, tmpdir)
    yield project
    for process in project.processes():
        with suppress(psutil.Error):
            process.kill()
    tmpdir.rmdir()


def cases() -> Iterator[ParameterSet]:
    """Every way, scope and number of workers."""
    for way, scope, workers in itertools.product(ALL, SCOPES, ("none", "xdist")):
        if way == "kill worker" and workers == "none":
            continue
        if way in QUICK.get((scope, workers), ()):
            marks = []
        elif (scope, workers) in SLOW:
            marks = [pytest.mark.slow]
        else:
            marks = [pytest.mark.slow, pytest.mark.soak]
        yield pytest.param(way, scope, workers, id=f"{way}-{scope}-{workers}", marks=marks)


@pytest.mark.parametrize(("way", "scope", "workers"), list(cases()))
def test_nothing_is_left(project: Project, way: str, scope: str, workers: str) -> None:
    check(project, way, scope, workers, "embedded")


@pytest.mark.system_flux
@pytest.mark.parametrize("way", SYSTEM)
@pytest.mark.parametrize("scope", ["function", "session"])
def test_nothing_is_left_of_a_real_flux(
    project: Project, way: str, scope: str, system_flux: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.path.dirname(system_flux)}:{os.environ['PATH']}")
    check(project, way, scope, "none", "system")


def check(project: Project, way: str, scope: str, workers: str, engine: str) -> None:
    if importlib.util.find_spec("pytest_timeout") is None and way.startswith("timeout"):
        pytest.skip("pytest-timeout is not installed")
    if workers != "none" and importlib.util.find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed")
    pid, rundir = project.start(way, scope, workers, engine)
    assert Path(rundir).parent == project.tmpdir
    end(project, way, pid, rundir, is_own=scope != "shared", has_workers=workers != "none")
    project.process.wait(60)
    left = wait_for_end(project.processes(), LIMIT)
    # pytest-xdist gives its own workers some seconds more when their controller is killed.
    left = [process for process in left if "sys.stdin.readline" not in " ".join(process.cmdline())]
    assert [(process.pid, process.name()) for process in left] == []
    assert [path.name for path in project.tmpdir.iterdir()] == []


def end(project: Project, way: str, pid: int, rundir: str, *, is_own: bool, has_workers: bool) -> None:
    """End a run in a way. Where that is not its end yet, but one process less, interrupt it then."""
    if way in SIGNALS:
        project.process.send_signal(SIGNALS[way])
        if way == "interrupt twice":
            if not has_workers:
                # Opened by the test when the first has reached it.
                (project.directory / "again").read_bytes()
            project.process.send_signal(signal.SIGINT)
        return
    if way in OWN:
        return
    if way == "kill worker":
        os.kill(pid, signal.SIGKILL)
        # Its instance has to go with it, or, if it is everybody's, with the run.
        if is_own:
            gone = wait_for_end([process for process in project.processes() if _belongs(process, rundir)], LIMIT)
            assert not gone
    elif way == "kill front":
        psutil.Process(project.named("flux-supervisor").ppid()).kill()
    else:
        project.named(PROCESSES[way]).kill()
    project.process.send_signal(signal.SIGINT)


def _belongs(process: psutil.Process, rundir: str) -> bool:
    with suppress(psutil.Error, OSError):
        return process.environ().get("FLUX_START_URI", "").startswith(f"local://{rundir}")
    return False
