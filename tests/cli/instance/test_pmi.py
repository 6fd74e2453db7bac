"""`flux pmi`, alone and as the tasks of a PMI server."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from pytest_flux.cli.flux import main
from pytest_flux.protocol import pmi
from pytest_flux.protocol.pmi_server import Abort, PmiServer, Reply

Capture = pytest.CaptureFixture[str]
FLUX = (sys.executable, "-m", "pytest_flux.cli.flux")
WAIT = 20.0


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_FD", "PMI_RANK", "PMI_SIZE", "FLUX_JOB_CC", "FLUX_JOB_ID", "FLUX_PMI_CLIENT_METHODS"):
        monkeypatch.delenv(name, raising=False)


def run_tasks(size: int, words: Sequence[str]) -> tuple[list[subprocess.CompletedProcess[str]], list[Abort]]:
    """Run `flux pmi` as all tasks of a program; what became of each, and the aborts that were asked for."""
    server = PmiServer(size, kvsname="kvs")
    ends: list[socket.socket] = []
    processes: list[subprocess.Popen[str]] = []
    for rank in range(size):
        ours, theirs = socket.socketpair()
        environment = {"PMI_FD": str(theirs.fileno()), "PMI_RANK": str(rank), "PMI_SIZE": str(size)}
        processes.append(
            subprocess.Popen(
                [*FLUX, "pmi", *words],
                env=os.environ | environment,
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        theirs.close()
        ends.append(ours)
    aborts = _serve(server, ends)
    results = []
    for process in processes:
        with process:
            if aborts:
                process.kill()
            output, errors = process.communicate(timeout=WAIT)
            results.append(subprocess.CompletedProcess(words, process.returncode, output, errors))
    return results, aborts


def _serve(server: PmiServer, ends: list[socket.socket]) -> list[Abort]:
    with selectors.DefaultSelector() as selector:
        for rank, end in enumerate(ends):
            selector.register(end, selectors.EVENT_READ, rank)
        aborts: list[Abort] = []
        while selector.get_map() and not aborts:
            for key, _ in selector.select(WAIT):
                data = ends[key.data].recv(4096)
                if not data:
                    selector.unregister(ends[key.data])
                for event in server.receive(key.data, data) if data else ():
                    if isinstance(event, Reply):
                        ends[event.rank].sendall(pmi.encode_line(event.line))
                    elif isinstance(event, Abort):
                        aborts.append(event)
    for end in ends:
        end.close()
    return aborts


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["barrier"], "0: completed pmi barrier on 1 tasks\n"),
        (["barrier", "--test-count=2"], "0: completed pmi barrier on 1 tasks\n" * 2),
        (["--method=single", "barrier"], "0: completed pmi barrier on 1 tasks\n"),
        (["get"], ""),
    ],
)
def test_alone(words: list[str], output: str, capsys: Capture) -> None:
    assert main(["pmi", *words]) == 0
    assert capsys.readouterr().out == output


def test_times_are_measured(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_JOB_ID", "f123")
    assert main(["pmi", "barrier", "--test-timing"]) == 0
    assert main(["pmi", "exchange", "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("f123: completed pmi barrier on 1 tasks in 0.")
    assert [line[:42] for line in lines[1:]] == ["f123: completed pmi exchange on 1 tasks in"] * 2


def test_trace(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_PMI_CLIENT_METHODS", "simple single")
    assert main(["pmi", "-v", "-t", "1h", "exchange"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "flux-pmi: Timer is set to 3600 sec 0 usec",
        "flux-pmi-client: trying 'simple'",
        "simple: PMI_FD not found in environ",
        "flux-pmi-client: trying 'single'",
        "single: selected",
        "single: initialize: rank=0 size=1 name=single: success",
        "single: barrier: success",
        "single: put key=key.0 value=single-0-1: success",
        "single: barrier: success",
        "single: get key=key.0 value=single-0-1: success",
        "single: barrier: success",
        "single: finalize: success",
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["get", "{0.x}"], "flux-pmi: get {0.x}: key not found"),
        (["get", "--ranks=x", "a"], "flux-pmi: could not decode --ranks argument"),
        (["--method=simple", "barrier"], "flux-pmi: PMI_FD not found in environ"),
        (["--method=foo", "barrier"], "flux-pmi: plugin matching 'foo' not found"),
        (["--timeout=x", "barrier"], "flux pmi: pmi: Invalid argument for option 'timeout': 'x'"),
    ],
)
def test_mistakes(words: list[str], complaint: str, capsys: Capture) -> None:
    assert main(["pmi", *words]) == 1
    assert capsys.readouterr().err == f"{complaint}\n"


def test_no_method_works(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FLUX_PMI_CLIENT_METHODS", "simple")
    assert main(["pmi", "barrier"]) == 1
    monkeypatch.setenv("FLUX_PMI_CLIENT_METHODS", "")
    assert main(["pmi", "barrier"]) == 1
    assert capsys.readouterr().err == ("flux-pmi: PMI_FD not found in environ\nflux-pmi: no method to try\n")


@pytest.mark.parametrize("words", [["barrier", "x"], ["exchange", "x"]])
def test_arguments_that_are_not_wanted(words: list[str], capsys: Capture) -> None:
    assert main(["pmi", *words]) == 1
    assert capsys.readouterr().err.startswith(f"Usage: flux pmi {words[0]} ")


def test_tasks_exchange() -> None:
    results, aborts = run_tasks(3, ["exchange"])
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 3
    assert results[0].stdout.startswith("0: completed pmi exchange on 3 tasks in ")
    assert results[1].stdout == results[2].stdout == ""
    assert aborts == []


def test_tasks_get() -> None:
    results, _ = run_tasks(2, ["get", "--ranks=1", "nosuch"])
    assert (results[0].returncode, results[0].stderr) == (0, "")
    assert (results[1].returncode, results[1].stderr) == (1, "flux-pmi: get nosuch: invalid key argument\n")


def test_a_task_aborts() -> None:
    results, aborts = run_tasks(2, ["barrier", "--test-abort=1"])
    assert [(abort.rank, abort.code, abort.message) for abort in aborts] == [(1, 1, "flux-pmi: rank 1 is aborting")]
    assert len(results) == 2


def test_timeout() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {"PMI_FD": str(theirs.fileno()), "PMI_RANK": "0", "PMI_SIZE": "1"}
        result = subprocess.run(
            [*FLUX, "pmi", "--timeout=50ms", "barrier"],
            env=os.environ | environment,
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
    assert (result.returncode, result.stderr) == (
        1,
        "flux-pmi: timeout expired before PMI operation completed\n",
    )
