"""A note in a run directory: whose it is. By it `--flux-sweep` knows what a crash has left over."""

from __future__ import annotations

import json

MARKER = ".pytest-flux"
"""The file's name."""


def mark(rundir: str, pid: int) -> None:
    """Write down in a run directory of our making whose it is: the front of a session."""
    import psutil

    try:
        values = {"pid": pid, "created": psutil.Process(pid).create_time(), "rundir": rundir}
        with open(f"{rundir}/{MARKER}", "w", encoding="utf-8") as file:
            json.dump(values, file)
    except (OSError, psutil.Error):
        # The session is ending, and takes its directory with it.
        return


def is_alive(pid: int, created: float) -> bool:
    """Whether the process runs that had this number then."""
    import psutil

    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
