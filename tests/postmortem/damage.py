"""Looking at what may be damaged, and how much that costs."""

from __future__ import annotations

import io
import itertools
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux.protocol.errors import FluxError, ProtocolError


def look_at(path: Path, *, keys: int | None = None) -> str:
    """Open it and read all there is. What was wrong, as one line; what is no promised error raises."""
    try:
        with pytest_flux.open_dump(path) as dump:
            for key in itertools.islice(dump.kvs.keys(), keys):
                try:
                    dump.kvs.get(key)
                except (FluxError, ProtocolError):
                    continue
            for job in dump.jobs():
                try:
                    _ = job.stdout, job.stderr, job.log()
                except ProtocolError:
                    continue
            return "; ".join(dump.problems)
    except (FluxError, ProtocolError) as error:
        return str(error) or pytest.fail("an error without a word")


def archive_of(*members: tuple[str, bytes | None, str]) -> io.BytesIO:
    """Members: name, content, or else the target of a link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data, target in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, target
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))
    file.seek(0)
    return file


def peak(source: str, *arguments: str) -> int:
    """The most memory, in bytes, that a program takes beyond what importing takes."""
    program = f"""
import resource, sys
import pytest_flux.postmortem.dump, pytest_flux.broker.jobs.restart, pytest_flux.content_sqlite
from pytest_flux.protocol.errors import FluxError, ProtocolError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {source}
except (FluxError, ProtocolError) as error:
    print(error, file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    limit = 4 << 30
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
