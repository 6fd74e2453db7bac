"""PMI requests per second: our server beside Hydra's, with the same client processes.

Run as ``python -m benchmarks.pmi [--clients N] [--hydra PATH-OF-MPIEXEC]``. What is timed is between two barriers
that all clients pass: starting them does not count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_CLIENT = Path(__file__).with_name("pmi_client.py")


def main() -> int:
    """Print what each side's clients report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1024)
    parser.add_argument("--hydra", default=shutil.which("mpiexec.hydra") or shutil.which("mpiexec"))
    arguments = parser.parse_args()
    flux_start = os.path.join(os.path.dirname(sys.executable), "flux-start")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "flux-broker")
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S {_CLIENT}\n")
        program.chmod(0o755)
        sides = {"flux-start": [flux_start, f"--broker={program}", f"-s{arguments.clients}", "true"]}
        if arguments.hydra:
            sides["Hydra"] = [arguments.hydra, "-n", str(arguments.clients), str(program)]
        for name, command in sides.items():
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
            print(f"{name}: {done.stdout.strip()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
