"""Output that outlives its reader. What the commands do with it is in data/scripts/pipes.sh."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from pytest_flux.cli.stdio import outlive_readers
outlive_readers()
sys.stdin.read(1)
for stream in (sys.stdout, sys.stderr):
    print("x" * 100000, file=stream, flush=True)
    stream.buffer.write(b"y" * 100000)
    stream.flush()
sys.exit(3)
"""


def test_what_nobody_reads_is_dropped() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(60) == 3
