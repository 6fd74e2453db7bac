"""A note in a run directory that names its owner. `--flux-sweep` finds by it what a crash has left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARKER = ".pytest-flux"
"""The file's name."""


def mark(rundir: str, pid: int, *, kept: bool) -> None:
    """Write the owner of a run directory that we have made: the front of a session, and whether it is kept."""
    import psutil

    try:
        values = {"pid": pid, "created": psutil.Process(pid).create_time(), "rundir": rundir, "kept": kept}
        with open(f"{rundir}/{MARKER}", "w", encoding="utf-8") as file:
            json.dump(values, file)
    except (OSError, psutil.Error):
        # The session ends and removes its directory.
        return


def find_process(pid: int, created: float) -> psutil.Process | None:
    """Find the process with this id that was created at that time (seconds since 1970); None if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if is_same else None
