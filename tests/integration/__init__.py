"""Real launchers and real MPI around the embedded broker: none of it is ours, so all of it may be absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

FLUX_START = (
    sys.executable,
    "-c",
    "import sys; from pytest_flux.cli.flux_start import main; sys.exit(main())",
)


def run(command: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command from the top of the source tree, which is where its Python processes find the package."""
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=top,
        env={**os.environ, **(environ or {})},
        timeout=100,
    )
