"""A statedir on a full disk: who cannot be served is told so, what was promised stays, and it goes on later."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.launcher.sessions import DEADLINE
from tests.postmortem.test_commands import EMBEDDED

MOUNT = ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c"]
FILL = """
flux kvs put --sync first=1
n=0
while head -c 600000 /dev/urandom | base64 -w0 | flux kvs put --raw k$n=- && test $n -lt 1000; do
  flux content flush || break
  n=$((n+1))
done
flux kvs put last=1; echo put $?
flux kvs put --sync last=1; echo sync $?
flux kvs get first
flux kvs get k1 | wc -c
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A directory, where a small file system can be mounted."""
    if shutil.which("unshare") is None or subprocess.run([*MOUNT, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here: `unshare --user --mount` fails")
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def on_small_disk(disk: Path, script: str, megabytes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a script where ``disk`` is so small, and $START starts an instance."""
    start = " ".join(EMBEDDED.command("-s1"))
    return subprocess.run(
        [*MOUNT, f"mount -t tmpfs -o size={megabytes}m none {disk} && mkdir -m 700 {disk}/state && {script}"],
        env={**EMBEDDED.environ(), "PYTHONPATH": os.getcwd(), "START": start},
        cwd=disk.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@pytest.mark.parametrize("where", ["-Sstatedir={disk}/state", "--rundir={disk}/state"])
def test_commits_are_refused(disk: Path, where: str) -> None:
    done = on_small_disk(disk, f"$START {where.format(disk=disk)} sh -c '{FILL}'")
    assert done.stdout.splitlines() == ["put 1", "sync 1", "1", "800001"], done.stderr
    assert "flux_kvs_commit: No space left on device" in done.stderr
    assert "malformed" not in done.stderr
    assert done.returncode == (1 if "statedir" in where else 0)


def test_what_was_promised_can_be_opened(disk: Path) -> None:
    statedir = f"{disk}/state"
    look = "flux fsck && flux kvs get first"
    done = on_small_disk(
        disk, f"{{ $START -Sstatedir={statedir} sh -c '{FILL}'; $START --recovery={statedir} sh -c '{look}'; }}"
    )
    assert done.stdout.splitlines()[4:][-1] == "1", done.stderr
    assert done.returncode == 0
    assert "Total errors" not in done.stderr


def test_it_goes_on_when_there_is_room_again(disk: Path) -> None:
    more = """
    rm {disk}/ballast
    flux kvs put --sync late=1 && flux kvs put later=1 && flux run echo ran && flux kvs get first
    """
    script = f"head -c 5500000 /dev/zero >{disk}/ballast; $START -Sstatedir={disk}/state sh -c '{FILL}{more}'"
    again = f"$START -Sstatedir={disk}/state sh -c 'flux fsck && flux kvs get k1 late later | wc -c'"
    done = on_small_disk(disk, f"{{ {script.replace('{disk}', str(disk))} && {again}; }}", megabytes=8)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "Checking" not in line]
    assert lines[4:] == ["ran", "1", "800005"]
