"""The first jobs of an instance come to a full disk: they fail clearly, and all is well when there is room again."""

from __future__ import annotations

from pathlib import Path

from tests.postmortem.test_full_disk import disk, on_small_disk

__all__ = ["disk"]

SCRIPT = """
cat /dev/zero >{disk}/ballast
flux run true; echo first $?
flux submit true; echo second $?
flux ping --count=1 broker >&2; echo ping $?
rm {disk}/ballast
flux kvs put --sync a=1
flux run echo ran; echo third $?
"""


def test_the_first_job_on_a_full_disk(disk: Path) -> None:
    done = on_small_disk(disk, f"$START -Sstatedir={disk}/state sh -c '{SCRIPT.format(disk=disk)}'", megabytes=4)
    lines = done.stdout.splitlines()
    assert lines == ["first 1", "second 1", "ping 0", "ran", "third 0"], done.stderr
    assert done.stderr.count("KVS commit failed") == 2
    assert "Traceback" not in done.stderr
