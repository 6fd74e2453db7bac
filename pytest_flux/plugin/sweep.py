"""``--flux-sweep``: remove what earlier runs have left, instances that were kept alive and leftovers of crashes.

A directory is a leftover if its marker names a session that has ended; a process is one if its environment names such
a directory. Directories that ``--flux-keep`` has kept are removed only on request.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from pytest_flux.directories import check_private
from pytest_flux.instance.ownership import MARKER, find_process
from pytest_flux.instance.store import Store, kept_directory

_GRACE = 2.0


def sweep(*, kept: bool = False) -> Iterator[str]:
    """Remove all leftovers, with a line about each; with ``kept``, also what ``--flux-keep`` has kept.

    Raises UsageError if others may have named some of them.
    """
    yield from _sweep_leftovers(kept=kept)
    store = Store(kept_directory())
    try:
        records = store.records()
    except PermissionError as error:
        raise pytest.UsageError(f"flux: {error.filename}: {error.strerror}") from None
    for record in records:
        yield f"instance at {record.uri}: {'stopped' if record.process() else 'was gone'}"
    store.stop_all()
    shutil.rmtree(kept_directory(), ignore_errors=True)


def _sweep_leftovers(*, kept: bool) -> Iterator[str]:
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
            values = json.loads(_read_ours(f"{path}/{MARKER}"))
            if values.get("kept") and not kept:
                continue
            if values["rundir"] == path and find_process(values["pid"], values["created"]) is None:
                yield path
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _is_our_directory(entry: os.DirEntry[str]) -> bool:
    try:
        check_private(entry.path)
    except OSError:
        return False
    return True


def _read_ours(path: str) -> bytes:
    """Read a file of our user, no link. Raises OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return file.read()


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
