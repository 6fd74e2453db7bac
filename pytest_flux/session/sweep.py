"""Removing what earlier runs have left: instances that were kept alive, and what a crash of everything left over.

A directory is ours if it holds a marker that names a session which is gone; a process is, if its environment names a
directory that is.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator

from pytest_flux.session.ownership import MARKER, is_alive
from pytest_flux.session.store import Store, kept_directory

_GRACE = 2.0


def sweep() -> Iterator[str]:
    """Remove it all; a line about each thing."""
    for record in Store(kept_directory()).records():
        yield f"instance at {record.uri}: {'stopped' if record.process() else 'was gone'}"
    Store(kept_directory()).stop_all()
    shutil.rmtree(kept_directory(), ignore_errors=True)
    for directory in sorted({tempfile.gettempdir(), "/tmp"}):
        for rundir in _orphaned(directory):
            for pid, name in _kill_processes(rundir):
                yield f"process {pid} ({name}): killed"
            shutil.rmtree(rundir, ignore_errors=True)
            yield f"directory {rundir}: removed"


def _orphaned(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        names = [entry.path for entry in entries if entry.name.startswith("flux-") and _is_our_directory(entry)]
    for path in sorted(names):
        try:
            with open(f"{path}/{MARKER}", encoding="utf-8") as file:
                values = json.load(file)
            if values["rundir"] == path and not is_alive(values["pid"], values["created"]):
                yield path
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _is_our_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _kill_processes(rundir: str) -> list[tuple[int, str]]:
    """What runs with this directory's control service in its environment: brokers, and what they have started."""
    import psutil

    killed = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLUX_START_URI") == f"local://{rundir}/start" and process.pid != os.getpid():
                killed.append((process.pid, process.name()))
                process.kill()
        except (psutil.Error, OSError):
            continue
    psutil.wait_procs([], timeout=_GRACE)
    return killed
