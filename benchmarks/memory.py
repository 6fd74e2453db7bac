"""Memory of an idle instance of 16 brokers, embedded and real: PSS, which counts a shared page once.

Run as ``python -m benchmarks.memory [--system PATH-OF-FLUX] [--size N]``. Linux only. What is measured is the
`flux-start` beside the running interpreter; PYTHONDONTWRITEBYTECODE, with which modules are compiled again and
again, is ignored. All processes of an instance count: the launcher's, the brokers, and what these run (a real one
runs a scheduler), except for the initial program.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter

import psutil

_READY = "echo up; exec cat"


def pss(command: list[str]) -> Counter[str]:
    """Bytes of an instance, by the name of the process without the rank."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [*command, "sh", "-c", _READY]
    usage: Counter[str] = Counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        launcher = psutil.Process(process.pid)
        for member in (launcher, *launcher.children(recursive=True)):
            if member.name() != "cat":
                usage[member.name().rstrip("-0123456789")] += member.memory_full_info().pss
        process.stdin.close()
    return usage


def _show(name: str, usage: Counter[str]) -> int:
    total = usage.total()
    parts = ", ".join(f"{part} {size / 2**20:.1f}" for part, size in usage.most_common())
    print(f"{name}: {total / 2**20:.1f} MiB ({parts})")
    return total


def main() -> int:
    """Print both figures; 1 if the embedded instance is the larger one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM") or shutil.which("flux"))
    parser.add_argument("--size", type=int, default=16)
    arguments = parser.parse_args()
    size = f"-s{arguments.size}"
    flux_start = os.path.join(os.path.dirname(sys.executable), "flux-start")
    ours = _show("embedded", pss([flux_start, "--broker=embedded", size]))
    if arguments.system is None:
        return 0
    theirs = _show("real", pss([arguments.system, "start", size]))
    print(f"ratio {ours / theirs:.2f}, budget 1")
    return int(ours > theirs)


if __name__ == "__main__":
    sys.exit(main())
