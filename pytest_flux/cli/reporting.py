"""`flux-start --report=FILE`: run the command as the initial program would run, then write the page of the instance.

The page must be collected while the instance still runs, but after the command has ended. Between the two is no
moment that belongs to the launcher: as soon as the initial program exits, rank 0 shuts the instance down. A cleanup
script would come late as well (other ranks may be gone), and only real brokers have them. So this program *is* the
initial program. It runs the command as its child, waits, collects, and exits with the command's exit code.

Signals reach the command as if we were not there. A terminal, and a broker that gave us a process group, signal
both; a broker that did not signals us alone, and we pass it on.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time

from pytest_flux import __version__
from pytest_flux.client import Flux
from pytest_flux.launcher.report import report
from pytest_flux.report import collect, page

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_FROM_BROKER = (signal.SIGHUP, signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    """Run ``argv[1:]``, write the page to ``argv[0]``, and return the exit code of the command."""
    path, *command = argv
    started = time.time()
    status = _run(command)
    try:
        with Flux() as flux:
            write(path, flux, command, status, started)
    except (OSError, ValueError) as error:
        report(f"--report={path}: {getattr(error, 'strerror', None) or error}")
    return status


def _run(command: Sequence[str]) -> int:
    """Run the command as a broker runs an initial program, and return its exit code as a shell shows it."""
    from pytest_flux.broker.process.programs import initial_program

    argv = initial_program(command)
    leads_group = os.getpgrp() == os.getpid()
    # Handlers, not SIG_IGN, which the command would inherit.
    for signum in (*_FROM_TERMINAL, *_FROM_BROKER):
        signal.signal(signum, lambda *_: None)
    try:
        child = subprocess.Popen(argv)
    except OSError as error:
        report(f"{argv[0]}: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126
    if not leads_group:
        for signum in _FROM_BROKER:
            signal.signal(signum, lambda signum, _: child.send_signal(signum))
    code = child.wait()
    return code if code >= 0 else 128 - code


def write(path: str, flux: Flux, command: Sequence[str], status: int, started: float) -> None:
    """Write the page of an instance in which a command has run. Raises OSError."""
    instance = collect.collect(flux)
    shown = shlex.join(command) or "a shell"
    instance.update(name="flux-start", what=f"size {instance['size']}", started=started)
    instance["facts"] = {"command": shown, "exit code": status, **collect.facts(instance)}
    data = {
        "title": f"Flux report: {shown[:80]}",
        "about": f"{collect.moment(started)}, pytest-flux {__version__}",
        "others": 0,
        "tests": [],
        "instances": [instance],
    }
    page.write(path, data)
