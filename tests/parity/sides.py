"""One script in an instance of either kind, in which `flux` is the real one: what it says, times and ids aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys

_VARYING = (
    (re.compile(r"\bƒ[1-9A-HJ-NP-Za-km-z]+"), "<ID>"),
    (re.compile(r"\b\d+\.\d{3,}s?"), "<TIME>"),
    (re.compile(r"/\S+/tmp\.\w{10}\b"), "<TMP>"),
    (re.compile(r"/[^\s:']*/flux-[A-Za-z0-9]{6}\b"), "<RUNDIR>"),
)


def run(command: list[str], script: str, flux: str) -> list[str]:
    """The lines of a script in a new instance, standard error among them."""
    environ = {**os.environ, "PATH": f"{os.path.dirname(flux)}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    # The tools are the real ones in either case, although an embedded instance brings its own.
    script = f'flux() {{ {flux} "$@"; }}\nexport -f flux\nTMP=$(mktemp -d)\nexec 2>&1\n{script}\nrm -r $TMP'
    done = subprocess.run(
        [*command, "bash", "-c", script],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=100,
        check=False,
    )
    output = done.stdout
    for pattern, replacement in _VARYING:
        output = pattern.sub(replacement, output)
    return output.splitlines()


def on_real(flux: str, script: str) -> list[str]:
    """In a real instance of two brokers."""
    return run([flux, "start", "-s2"], script, flux)


def on_embedded(flux: str, script: str) -> list[str]:
    """In an embedded one."""
    return run([sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded", "-s2"], script, flux)
