"""How long it takes, and how much memory, to open a large archive: ``python -m benchmarks.recovery [MEGABYTES]``.

The archive is made first: many small values as of finished jobs, and some large ones. Then it is opened in Python,
and by an instance in recovery mode. Memory is the most that the process, or the broker, ever had.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time

from pytest_flux.protocol.archive import END, FILE, Member, encode_member, padding

SMALL, LARGE = 2_000, 4 << 20
SHARE_OF_SMALL = 0.25

_OPEN = """
import sys, time, resource
import pytest_flux
begin = time.perf_counter()
with pytest_flux.open_dump(sys.argv[1]) as dump:
    opened = time.perf_counter()
    keys = sum(1 for _ in dump.kvs.keys())
print(opened - begin, time.perf_counter() - opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, keys)
"""


def generate(path: str, size: int) -> int:
    """Write an archive of about ``size`` bytes; the number of its members."""
    written = members = 0
    with open(path, "wb") as file:
        while written < size:
            large = members * SMALL > written * SHARE_OF_SMALL
            name = f"bulk/n{members}" if large else f"data/{members >> 8:x}/n{members}"
            data = os.urandom(LARGE if large else SMALL)
            written += file.write(encode_member(Member(name, FILE, len(data), 1_700_000_000, 0, 0, "")))
            written += file.write(data) + file.write(padding(len(data)))
            members += 1
        file.write(END)
    return members


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory(prefix="flux-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
        path = f"{directory}/dump.tar"
        members = generate(path, megabytes << 20)
        print(f"archive of {os.path.getsize(path) / 2**20:.0f} MiB, {members} members")
        begin = time.perf_counter()
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
        print(f"reading the file: {time.perf_counter() - begin:.2f} s")
        done = subprocess.run([sys.executable, "-c", _OPEN, path], check=True, capture_output=True, text=True)
        opened, walked, memory, keys = done.stdout.split()
        print(
            f"open_dump: {float(opened):.2f} s, {float(memory):.0f} MiB; {keys} keys walked in {float(walked):.2f} s"
        )
        start = [sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded", "-s1"]
        look = "flux kvs ls -1 | wc -l; grep VmHWM /proc/$(flux getattr broker.pid)/status"
        begin = time.perf_counter()
        done = subprocess.run(
            [*start, f"--recovery={path}", "sh", "-c", look], check=True, capture_output=True, text=True
        )
        memory = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]
        print(
            f"flux-start --recovery: {time.perf_counter() - begin:.2f} s in all, broker {int(memory) / 1024:.0f} MiB"
        )


if __name__ == "__main__":
    main()
