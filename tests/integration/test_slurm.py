"""Brokers as the tasks of a Slurm step, under a Slurm of one node that is started for these tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration import FLUX_START, run

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("munge", "sinfo", "srun")
SEARCH = os.pathsep.join(("/usr/sbin", "/sbin", os.environ.get("PATH", os.defpath)))
START_TIMEOUT = 60.0

CONFIGURATION = """\
ClusterName=pytest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={directory}/slurmctld
SlurmdSpoolDir={directory}/slurmd
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
"""


def why_no_slurm() -> str:
    """What is missing to start a Slurm; empty if nothing is."""
    missing = [program for program in (*DAEMONS, *CLIENTS) if shutil.which(program, path=SEARCH) is None]
    if missing:
        return f"no Slurm: {', '.join(missing)} not found in {SEARCH}"
    if os.geteuid() != 0:
        return "only root can start a Slurm that runs tasks"
    return ""


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Slurm:
    """The daemons of a Slurm of one node; everything they write is in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {"SLURM_CONF": str(directory / "slurm.conf"), "PATH": SEARCH}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("slurmctld", "slurmd"):
            (self.directory / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        slurmctld_port, slurmd_port = free_ports(2)
        configuration = CONFIGURATION.format(
            host=host, directory=self.directory, slurmctld_port=slurmctld_port, slurmd_port=slurmd_port
        )
        (self.directory / "slurm.conf").write_text(configuration)
        (self.directory / "munge.key").write_bytes(os.urandom(1024))
        (self.directory / "munge.key").chmod(0o400)
        munge_socket = self.directory / "munge.socket"
        places = {"key": "munge.key", "pid": "munged.pid", "log": "munged.log", "seed": "munged.seed"}
        options = [f"--{option}-file={self.directory}/{name}" for option, name in places.items()]
        # By force, as it would have everybody see its socket.
        self._spawn("munged", "--foreground", "--force", f"--socket={munge_socket}", *options)
        self._wait_for("munge", "--no-input", f"--socket={munge_socket}")
        self._spawn("slurmctld", "-D")
        self._spawn("slurmd", "-D", "-N", host)
        self._wait_for("sinfo", "--noheader", "--format=%T", answers=("idle", "mixed"))

    def _spawn(self, *command: str) -> None:
        with open(self.directory / "daemons.log", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environ}
            )
        self._processes.append(process)

    def _wait_for(self, *command: str, answers: tuple[str, ...] = ()) -> None:
        """Ask until the answer is good, since the daemons tell nobody when they are ready."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            answer = run(command, self.environ)
            if answer.returncode == 0 and (not answers or answer.stdout.strip() in answers):
                return
            dead = [process.args for process in self._processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "".join(path.read_text(errors="replace") for path in self.directory.glob("*.log"))
                pytest.fail(f"Slurm does not start: {command}: {answer}; ended: {dead}\n{logs}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End all daemons, and what they have left: the step daemons belong to nobody."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        stragglers = self.processes()
        for straggler in stragglers:
            with contextlib.suppress(psutil.NoSuchProcess):
                straggler.kill()
        psutil.wait_procs(stragglers, 20)

    def processes(self) -> list[psutil.Process]:
        """The processes that were told of this Slurm."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == self.environ["SLURM_CONF"]:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A Slurm of its own; skips where none can be started."""
    missing = why_no_slurm()
    if missing:
        pytest.skip(missing)
    # Not below tmp_path, whose path may be too long for a socket; and not where the leak check looks for ours: a step
    # daemon can outlive its step for a while, as it takes another process with a reused id for one of the step.
    with tempfile.TemporaryDirectory(prefix="pytest-slurm-", dir="/tmp") as directory:
        slurm = Slurm(Path(directory))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def srun(slurm: Slurm, *command: str, tasks: int = 2) -> subprocess.CompletedProcess[str]:
    return run(["srun", f"-n{tasks}", "--overcommit", "--mpi=pmi2", *FLUX_START, *command], slurm.environ)


def test_one_instance_of_all_tasks(slurm: Slurm) -> None:
    result = srun(slurm, "--broker=embedded", "flux", "getattr", "size")
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")


def test_every_broker_can_be_reached(slurm: Slurm) -> None:
    result = srun(slurm, "--broker=embedded", "flux", "exec", "-r", "all", "flux", "getattr", "rank", tasks=3)
    assert (result.returncode, sorted(result.stdout.split())) == (0, ["0", "1", "2"])


def test_the_exit_code_is_that_of_the_initial_program(slurm: Slurm) -> None:
    assert srun(slurm, "--broker=embedded", "exit 5").returncode == 5


def test_programs_do_not_believe_to_be_tasks(slurm: Slurm) -> None:
    result = srun(slurm, "--broker=embedded", "env")
    names = {line.partition("=")[0] for line in result.stdout.splitlines()}
    assert "FLUX_URI" in names
    assert not {name for name in names if name.startswith(("SLURM_", "PMI_"))}
