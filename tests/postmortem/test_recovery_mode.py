"""Recovery mode itself: who gets in, what is said, what is not done."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import tarfile
import threading
from pathlib import Path

from tests.launcher.sessions import DEADLINE
from tests.postmortem.test_commands import EMBEDDED, RECORDED, shell

LOOK = "flux resource list -n -o '{state} {nnodes}'; flux jobs -a -n -o '{id}' | wc -l"


def test_peers_are_refused(tmp_path: Path) -> None:
    """The other hosts of a configured instance may be up, and have nothing to seek in its recovery."""
    (tmp_path / "cert").touch(mode=0o600)
    (tmp_path / "config.toml").write_text(
        f"""
        [bootstrap]
        curve_cert = "{tmp_path}/cert"
        default_bind = "ipc://{tmp_path}/%h"
        default_connect = "ipc://{tmp_path}/%h"
        hosts = [{{host = "fake[0-1]"}}]
        """
    )
    options = ["-c", "config.toml", "-Sbroker.boot-method=config", "-Shostname=fake0", f"--recovery={RECORDED}"]
    done = shell(*options, script=f"flux getattr size; flux getattr broker.quorum; {LOOK}; ls", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["2", "1", "free 0", "allocated 0", "down 2", "7", "cert", "config.toml"]


def test_jobs_of_users_that_are_not_here(tmp_path: Path) -> None:
    """Who looks at what came from a cluster is nobody that the cluster knew."""
    shell("-s1", "-Scontent.dump=here.tar", script="flux run true; flux run false", cwd=tmp_path)
    ours, theirs = f'"userid":{os.getuid()},'.encode(), b'"userid":4711,'
    with tarfile.open(tmp_path / "here.tar") as here, tarfile.open(tmp_path / "there.tar", "w") as there:
        for member in here:
            file = here.extractfile(member) if member.isfile() else None
            data = file.read().replace(ours, theirs) if file is not None else b""
            member.size = len(data)
            there.addfile(member, io.BytesIO(data))
    done = shell("-s1", "--recovery=there.tar", script="flux jobs -a -n -o '{userid} {status}'", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["4711 FAILED", "4711 COMPLETED"]


def test_more_brokers_than_there_were(tmp_path: Path) -> None:
    done = shell("-s3", f"--recovery={RECORDED}", script=LOOK, cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["free 0", "allocated 0", "down 2", "7"]


def test_rc1_may_fail(tmp_path: Path) -> None:
    command = [arg for arg in EMBEDDED.command("-s1", f"--recovery={RECORDED}", "sh", "-c", LOOK) if "rc1" not in arg]
    command.insert(4, "-Sbroker.rc1_path=echo not today >&2; exit 3")
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**EMBEDDED.environ(), "PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0
    assert "rc1.0: not today" in done.stderr
    assert done.stdout.splitlines()[-1] == "7"


def test_new_jobs_wait(tmp_path: Path) -> None:
    script = "flux submit true; flux jobs -n -o '{status_abbrev}'; flux cancel --all; flux jobs -n -o '{status}'"
    done = shell("-s1", f"--recovery={RECORDED}", script=script, cwd=tmp_path)
    assert done.code == 0
    assert done.stdout.splitlines()[1:] == ["S"]


def test_a_person_is_told_where_they_are(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 4096):
                seen.extend(piece)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    process = subprocess.Popen(
        EMBEDDED.command("-s1", f"--recovery={RECORDED}"),
        cwd=tmp_path,
        env={**EMBEDDED.environ(), "PYTHONPATH": os.getcwd(), "PS1": "$ "},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    reader.start()
    os.write(ours, b"flux jobs -a -n -o '{name}' | head -1; exit\n")
    assert process.wait(DEADLINE) == 0
    reader.join(DEADLINE)
    os.close(ours)
    lines = seen.decode().splitlines()
    begin = lines.index("| Entering Flux recovery mode.")
    assert lines[begin - 1] == "+" + "-" * 53
    assert "| All resources will be offline during recovery." in lines
    assert "| statedir           changes will not be preserved" in lines
    assert "big" in lines[begin:]
