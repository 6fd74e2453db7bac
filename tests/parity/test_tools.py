"""Unmodified tools of a real Flux, pointed at an embedded instance: they cannot tell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.parity.instances import Engine, Outcome, Running, normalize

pytestmark = pytest.mark.system_flux

# What no two runs have in common.
_ROUTE = re.compile(r"\([0-9a-f!]+\)")
_PATH = re.compile(r"<RUNDIR>|/\S*/flux-[\w.-]+")


@pytest.fixture(scope="module")
def tools(system_flux: str) -> str:
    return system_flux


def use(tool: str, running: Running, script: str) -> subprocess.Popen[str]:
    """Start a script with the real ``flux``, on rank 0."""
    environ = {**os.environ, "PATH": f"{os.path.dirname(tool)}:{os.environ['PATH']}"}
    environ["FLUX_URI"] = f"local://{running.rundir}/local-0"
    return subprocess.Popen(
        ["/bin/bash", "-c", script],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> Outcome:
    stdout, stderr = (
        _PATH.sub("<PATH>", normalize(_ROUTE.sub("(<ROUTE>)", text))) for text in process.communicate(timeout=60)
    )
    return Outcome(process.returncode, stdout, stderr)


SCRIPTS = [
    "flux getattr size; flux getattr rank; flux getattr nosuch; flux getattr local-uri",
    "flux setattr test.a 1; flux getattr test.a; flux setattr rank 1; flux setattr nosuch 1; flux setattr size 3",
    "flux setattr log-stderr-level 9",
    "flux ping -c2 -i0.01 broker | sed 's/time=[0-9.]* ms/TIME/'; flux ping -c1 1 | sed 's/time=[0-9.]* ms/TIME/'",
    "flux ping -c1 nosuch; flux ping -c1 7; flux ping -c1 --rank=2 broker | sed 's/time=[0-9.]* ms/TIME/'",
    "flux ping -c1 --userid broker | sed 's/time=[0-9.]* ms/TIME/'; flux ping --pad=10 -c1 0!broker | wc -l",
    "timeout 5 flux event sub -c1 parity & sleep 0.3; flux event pub parity.a '{\"a\":1}'; wait",
    "timeout 5 flux event sub -c1 raw & sleep 0.3; flux event pub -r raw hello; wait; flux event pub -s x | wc -l",
    "flux logger -s err hello world; flux dmesg | tail -1 | sed 's/^.*Z//'; flux dmesg -C; flux dmesg | wc -l",
    "flux logger --appname x.y -s debug low; flux dmesg -H --color=never | tail -1 | sed 's/^.*] //'",
    "flux overlay status --no-pretty --summary | sed 's/ for .*//'; flux overlay status --wait=full | wc -l",
    "flux overlay status | sed 's/ for .*//; s/([0-9.]* ms)//'; flux overlay lookup 0-2; flux overlay parentof 2",
    "flux overlay errors; flux overlay trace --help >/dev/null; echo $?",
    "flux exec -r all flux getattr rank | sort; flux exec -r 1 sh -c 'exit 3'; echo $?; flux exec -r 5 true; echo $?",
    "flux exec -l -r 0-2 echo hi | sort; echo in | flux exec -r 1 cat; flux exec -r 0 no-such-program; echo $?",
    "flux exec -r 1 sh -c 'kill -9 $$'; echo $?; flux exec -d / -r 2 pwd; flux exec -n -r all true; echo $?",
    "flux exec --bg -r 1 --label=bg sleep 0.01 | wc -l; flux sproc ps -r 0 -n -o '{cmd} {label} {state}' | grep rc2",
    "flux exec --bg --waitable --label=w -r 1 sh -c 'exit 4' >/dev/null; flux sproc wait -r1 w; echo $?",
    "flux sproc ps --rank=1; flux sproc kill -r 1 15 nosuch; echo $?; flux module stats --rusage overlay | wc -l",
    "flux version | grep -v security; flux config get; flux config get a.b; echo $?; flux env true; echo $?",
    "flux proxy $FLUX_URI flux getattr size; flux uri --local .; flux module debug --set=1 overlay; echo $?",
    "flux kvs --help >/dev/null; flux nosuch; echo $?; flux getattr; echo $?",
]


@pytest.fixture(scope="module")
def pair(tools: str) -> Iterator[tuple[Running, Running]]:
    """An instance of each kind."""
    path = os.environ.get("PATH", os.defpath)
    real = Engine("system", os.path.dirname(tools) + os.pathsep + path)
    with (
        Engine("embedded", path).running("-s3", "-Stbon.topo=kary:1") as ours,
        real.running("-s3", "-Stbon.topo=kary:1") as theirs,
    ):
        yield ours, theirs


@pytest.mark.parametrize("script", SCRIPTS)
def test_tools_cannot_tell(tools: str, pair: tuple[Running, Running], script: str) -> None:
    ours, theirs = pair
    processes = [use(tools, running, script) for running in (ours, theirs)]
    here, there = (outcome(process) for process in processes)
    assert here == there
