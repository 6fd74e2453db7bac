"""Memory of an idle instance of 16 brokers, embedded and real: PSS, which counts a shared page once.

Run as ``python -m benchmarks.memory [--system PATH-OF-FLUX] [--size N]``. Linux only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

import psutil

_READY = "echo up; exec cat"


def pss(command: list[str]) -> tuple[int, int]:
    """Bytes of the brokers of an instance, and how many brokers they are."""
    with subprocess.Popen([*command, "sh", "-c", _READY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        brokers = [
            child for child in psutil.Process(process.pid).children(recursive=True) if "broker" in child.name()
        ]
        total = sum(child.memory_full_info().pss for child in brokers)
        process.stdin.close()
    return total, len(brokers)


def main() -> int:
    """Print both figures; 1 if the embedded instance is the larger one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM") or shutil.which("flux"))
    parser.add_argument("--size", type=int, default=16)
    arguments = parser.parse_args()
    size = f"-s{arguments.size}"
    flux_start = os.path.join(os.path.dirname(sys.executable), "flux-start")
    ours, count = pss([flux_start, "--broker=embedded", size])
    print(f"embedded: {ours / 2**20:.1f} MiB in {count} brokers")
    if arguments.system is None:
        return 0
    theirs, count = pss([arguments.system, "start", size])
    print(f"real: {theirs / 2**20:.1f} MiB in {count} brokers; ratio {ours / theirs:.2f}, budget 1")
    return int(ours > theirs)


if __name__ == "__main__":
    sys.exit(main())
