"""``--flux-sweep``: remove what earlier runs have left, instances that were kept alive and leftovers of crashes.

A directory is a leftover if its marker names a session that has ended; a process is one if its environment names such
a directory. Directories that ``--flux-keep`` has kept are removed only on request.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator

from pytest_flux.instance.ownership import MARKER, find_process
from pytest_flux.instance.store import Store, kept_directory

_GRACE = 2.0


def sweep(*, kept: bool = False) -> Iterator[str]:
    """Remove all leftovers, with a line about each; with ``kept``, also what ``--flux-keep`` has kept."""
    for record in Store(kept_directory()).records():
        yield f"instance at {record.uri}: {'stopped' if record.process() else 'was gone'}"
    Store(kept_directory()).stop_all()
    shutil.rmtree(kept_directory(), ignore_errors=True)
    for directory in sorted({tempfile.gettempdir(), "/tmp"}):
        for rundir in _orphaned(directory, kept=kept):
            for pid, name in _kill_processes(rundir):
                yield f"process {pid} ({name}): killed"
            shutil.rmtree(rundir, ignore_errors=True)
            yield f"directory {rundir}: removed"


def _orphaned(directory: str, *, kept: bool) -> Iterator[str]:
    with os.scandir(directory) as entries:
        names = [entry.path for entry in entries if entry.name.startswith("flux-") and _is_our_directory(entry)]
    for path in sorted(names):
        try:
            with open(f"{path}/{MARKER}", encoding="utf-8") as file:
                values = json.load(file)
            if values.get("kept") and not kept:
                continue
            if values["rundir"] == path and find_process(values["pid"], values["created"]) is None:
                yield path
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _is_our_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _kill_processes(rundir: str) -> list[tuple[int, str]]:
    """Kill the processes whose environment has this directory's control service: brokers and their children."""
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
