"""What nobody reads: endless output, and clients that stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_flux import flux_instance
from pytest_flux.instance.flux_instance import FluxInstance

DEADLINE = 60.0
MARGIN = 120 << 20
"""Of memory. A link's buffer alone may hold 64 MiB; endless output is more than this in some seconds."""

YES = ["yes", 2000 * "y"]

instance = flux_instance(size=3, broker="embedded")


def _memory(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) << 10  # type: ignore[index]


def _brokers(instance: FluxInstance) -> list[int]:
    lines = _run(instance, "exec", "-l", "-r", "all", "sh", "-c", "echo $PPID").splitlines()
    return [int(pid) for _, pid in sorted(line.split(": ") for line in lines)]


def _run(instance: FluxInstance, *words: str, check: bool = True) -> str:
    return subprocess.run(["flux", *words], env=instance.env, stdout=subprocess.PIPE, text=True, check=check).stdout


@contextmanager
def _flux(instance: FluxInstance, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["flux", *words], env=instance.env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait(DEADLINE)


def _read(process: subprocess.Popen[bytes], size: int) -> None:
    assert process.stdout is not None
    while size > 0:
        got = len(process.stdout.read1(1 << 20))  # type: ignore[attr-defined]
        assert got
        size -= got


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
class TestEndless:
    def test_output_of_jobs(self, instance: FluxInstance) -> None:
        brokers = _brokers(instance)
        with _flux(instance, "run", "-N3", "-n3", *YES) as process:
            _read(process, 50 << 20)
            _run(instance, "kvs", "put", "while=it runs")
            assert _run(instance, "kvs", "get", "while") == "it runs\n"
        _run(instance, "cancel", "--all")
        _run(instance, "queue", "drain")
        assert [size for size in map(_memory, brokers) if size > MARGIN] == []
        assert _brokers(instance) == brokers

    @pytest.mark.parametrize("words", [["exec", "-r", "all", *YES], ["run", "-n1", *YES]], ids=["exec", "run"])
    def test_clients_that_stop(self, instance: FluxInstance, words: list[str]) -> None:
        brokers = _brokers(instance)
        with _flux(instance, *words) as process:
            _read(process, 1 << 20)
            process.send_signal(signal.SIGSTOP)
            # Through the same brokers.
            assert _run(instance, "exec", "-r", "all", "seq", "20000").count("\n") == 60000
            process.send_signal(signal.SIGCONT)
            _read(process, 1 << 20)
        _run(instance, "cancel", "--all", check=False)
        _run(instance, "queue", "drain")
        assert [size for size in map(_memory, brokers) if size > MARGIN] == []
        assert _brokers(instance) == brokers


def test_all_of_it_comes_in_the_end(instance: FluxInstance) -> None:
    with _flux(instance, "run", "-N3", "-n3", "seq", "20000") as process:
        _read(process, 1 << 16)
        process.send_signal(signal.SIGSTOP)
        _run(instance, "queue", "drain")
        process.send_signal(signal.SIGCONT)
        rest, _ = process.communicate(timeout=DEADLINE)
        assert rest.endswith(b"20000\n")
        assert process.returncode == 0


@pytest.mark.parametrize("rank", [0, 2])
def test_output_is_the_same_wherever_one_reads_it(instance: FluxInstance, rank: int) -> None:
    environ = {**instance.env, "FLUX_URI": instance.uri.replace("local-0", f"local-{rank}")}
    for words in (["run", "-n1"], ["exec", "-r", "1"]):
        output = subprocess.run(["flux", *words, "seq", "30000"], env=environ, capture_output=True, text=True)
        assert output.stdout.split() == [str(number) for number in range(1, 30001)]


def test_what_only_python_calls_an_end_of_line(instance: FluxInstance) -> None:
    text = "a\u2028b\x0bc\x85d\x1ce\n"
    assert _run(instance, "run", "printf", text) == text
