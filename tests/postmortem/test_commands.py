"""`flux dump`, `flux restore`, `flux fsck`, and what an instance does of that at its start and end."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_flux.instance.flux_instance import start
from tests.launcher.sessions import DEADLINE
from tests.parity.instances import Engine, Outcome

RECORDED = Path(__file__).parent.parent / "conformance" / "data" / "flux-0.88.0" / "dump.tar"
EMBEDDED = Engine("embedded", os.environ.get("PATH", os.defpath))

FILL = """
flux kvs put --sync a.b=1 big.one={x} big.two={y} deep.d.e.f=2 {long}=3 päth.ü=4
flux kvs put --append big.two={z}
flux kvs link a.b link
flux kvs link --target-namespace=other there far
flux kvs put empty=""".format(x="x" * 300, y="y" * 200, z="z" * 100, long=f"{'d' * 90}.{'n' * 150}")


def shell(*arguments: str, script: str, cwd: Path, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run a script in an embedded instance."""
    command = EMBEDDED.command(*arguments, "sh", "-c", script)
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**EMBEDDED.environ(), "PYTHONPATH": os.getcwd(), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def members(path: Path) -> dict[str, tuple[bytes, bytes | str]]:
    """By name: type, and content or target."""
    with tarfile.open(path) as archive:
        found: dict[str, tuple[bytes, bytes | str]] = {}
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            found[member.name] = member.type, file.read() if file is not None else member.linkname
        return found


@pytest.mark.parametrize(
    "name",
    ["d.tgz", *(pytest.param(f"d.tar{suffix}", marks=pytest.mark.slow) for suffix in ("", ".gz", ".bz2", ".xz"))],
)
def test_dump_recover_dump_again(name: str, tmp_path: Path) -> None:
    done = shell("-s1", script=f"{FILL}; flux run echo hello; flux dump -q {name}", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    done = shell("-s1", f"--recovery={name}", script=f"flux jobs -a; flux dump -q again-{name}", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    before, after = members(tmp_path / name), members(tmp_path / f"again-{name}")
    assert after == before
    assert before["far"] == (tarfile.SYMTYPE, "other::there")
    assert before["big/two"][1] == b"y" * 200 + b"z" * 100
    assert before[f"{'d' * 90}/{'n' * 150}"][1] == b"3"
    assert before["päth/ü"][1] == b"4"
    assert before["empty"][1] == b""
    assert any(name.endswith("guest/output") for name in before)


def test_a_recorded_dump_comes_out_as_it_went_in(tmp_path: Path) -> None:
    done = shell("-s1", f"--recovery={RECORDED}", script="flux dump -q again.tar", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert members(tmp_path / "again.tar") == members(RECORDED)


def test_times_and_owners(tmp_path: Path) -> None:
    script = f"{FILL}; flux kvs put --sync q=1; flux dump -q --checkpoint d.tar; flux content checkpoint list -j"
    done = shell("-s1", script=script, cwd=tmp_path)
    checkpoint = json.loads(done.stdout.splitlines()[0])
    with tarfile.open(tmp_path / "d.tar") as archive:
        big, small = archive.getmember("big/one"), archive.getmember("a/b")
    assert (big.mtime, big.uid, big.gid) == (int(checkpoint["timestamp"]), os.getuid(), os.getgid())
    assert (small.mtime, small.uid, small.gid) == (0, 0, 0)
    assert (big.mode, small.mode) == (0o644, 0o644)


def test_pipes(tmp_path: Path) -> None:
    script = f"{FILL}; flux dump -q - | flux restore -q --key=copy -; flux kvs get copy.big.two | wc -c"
    done = shell("-s2", script=script, cwd=tmp_path)
    assert (done.code, done.stdout.strip(), done.stderr) == (0, "301", "")


def test_what_is_said(tmp_path: Path) -> None:
    """As recorded of flux-core 0.88."""
    script = "flux kvs put a=1 b=2; flux kvs unlink -R resource; flux dump d.tar; flux restore --key=k d.tar"
    done = shell("-s1", script=script, cwd=tmp_path)
    lines = done.stderr.replace("\r", "\n").split("\n")
    assert [line for line in lines if "snapshot" not in line] == [
        "",
        "flux-dump: archived 1 keys",
        "flux-dump: archived 2 keys",
        "flux-dump: archived 2 keys",
        "",
        "flux-restore: restored 1 keys (0 blobs)",
        "flux-restore: restored 2 keys (0 blobs)",
        "flux-restore: restored 2 keys (1 blobs)",
        "",
    ]
    ref = hashlib.sha1(
        b'{"data":{"a":%b,"b":%b},"type":"dir","ver":1}'
        % tuple(b'{"data":"%b==","type":"val","ver":1}' % text for text in (b"MQ", b"Mg"))
    ).hexdigest()
    assert f"flux-restore: writing snapshot sha1-{ref[:8]} to KVS key 'k'" in lines


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("flux dump foo.bar", "flux-dump: No such format 'foo.bar'"),
        ("flux dump /nonexist/x.tar", "flux-dump: Failed to open '/nonexist/x.tar'"),
        ("flux restore nonexist.tar", "flux-restore: Failed to open 'nonexist.tar'"),
        ("flux restore d.tar", "flux-restore: Please specify a restore target with --checkpoint or --key"),
        ("flux restore --checkpoint d.tar", "flux-restore: please unload kvs module before using --checkpoint"),
        ("flux restore -q --key=k bad.tar", "flux-restore: not a tar archive: after 0 members"),
        ("flux dump --checkpoint -q d.tar", "flux-dump: error fetching checkpoints: No such file or directory"),
    ],
)
def test_errors(command: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "d.tar").write_bytes(bytes(1024))
    (tmp_path / "bad.tar").write_bytes(b"garbage" * 100)
    done = shell("-s1", script=command, cwd=tmp_path)
    assert done.stderr.splitlines()[0] == said
    assert done.code == 1
    assert sorted(os.listdir(tmp_path)) == ["bad.tar", "d.tar"]


def test_dump_at_the_end_and_restore_at_the_next_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    attributes = [f"-Sstatedir={state}", "-Scontent.dump=auto", "-Scontent.restore=auto"]
    done = shell("-s1", *attributes, script="flux run echo one; flux kvs put a=1", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    link = state / "dump" / "RESTORE"
    assert tarfile.is_tarfile(link.resolve())
    # What the archive does not have is garbage, and gone after this.
    with sqlite3.connect(state / "content.sqlite") as database:
        before = database.execute("SELECT COUNT(*) FROM objects").fetchone()[0]
    database.close()
    script = "flux kvs get a; flux jobs -a -n -o '{name} {status}'; ls -a $(flux getattr statedir)/dump"
    done = shell("-s1", f"-Sstatedir={state}", "-Scontent.restore=auto", script=script, cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["1", "echo COMPLETED"]
    assert not link.is_symlink()
    with sqlite3.connect(state / "content.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM objects").fetchone()[0] < before
    database.close()
    done = shell("-s1", f"-Sstatedir={state}", "-Scontent.restore=auto", script="flux kvs get a", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "1\n")


def test_the_dump_is_there_when_a_shutdown_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "d.tar"
    with start(size=1, broker="embedded", attrs={"content.dump": str(path)}) as instance:
        instance.kvs.put("a", "1")
        assert list(instance.client.rpc("shutdown.start", {"loglevel": 0}, streaming=True)) == []
        with tarfile.open(path) as archive:
            assert "a" in archive.getnames()


def test_a_dump_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    done = shell("-s1", "-Scontent.dump=/nonexist/d.tar", script="true", cwd=tmp_path)
    assert done.code == 1
    assert "content.dump: /nonexist/d.tar: No such file or directory" in done.stderr


def test_a_restore_that_fails_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    assert shell("-s1", f"-Sstatedir={state}", script="flux kvs put a=1", cwd=tmp_path).code == 0
    (tmp_path / "bad.tar").write_bytes(RECORDED.read_bytes()[:5000])
    done = shell("-s1", f"-Sstatedir={state}", "-Scontent.restore=bad.tar", script="true", cwd=tmp_path)
    assert done.code == 1
    assert "content.restore: bad.tar: the archive is truncated: after 5 members" in done.stderr
    assert os.listdir(state) == ["content.sqlite"]
    done = shell("-s1", f"-Sstatedir={state}", script="flux kvs get a", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "1\n")


def _lose(state: Path, *refs: str) -> None:
    database = sqlite3.connect(state / "content.sqlite")
    for ref in refs:
        digest = bytes.fromhex(ref.partition("-")[2])
        assert database.execute("DELETE FROM objects WHERE hash = CAST(? AS TEXT)", (digest,)).rowcount == 1
    database.commit()
    database.close()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A statedir in which a value, part of another, and a directory are lost."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    script = f"{FILL}; for key in big.one big.two deep.d.e; do flux kvs get --treeobj $key; done"
    done = shell("-s1", f"-Sstatedir={state}", script=script, cwd=tmp_path)
    one, two, directory = (json.loads(line)["data"] for line in done.stdout.splitlines())
    _lose(state, one[0], two[1], directory[0])
    return state


def test_fsck(damaged: Path, tmp_path: Path) -> None:
    """As recorded of flux-core 0.88."""
    script = "flux fsck; echo $?; flux fsck --quiet -v; flux dump -q d.tar; flux dump -q --ignore-failed-read d.tar"
    done = shell("-s1", f"--recovery={damaged}", script=script, cwd=tmp_path)
    assert [line for line in done.stdout.splitlines() if "Checking" not in line] == ["1"]
    assert done.stderr.splitlines() == [
        "flux-fsck: big.one: missing blobref(s)",
        "flux-fsck: big.two: missing blobref(s)",
        "flux-fsck: deep.d.e: missing dirref blobref",
        "flux-fsck: Total errors: 3",
        "flux-fsck: big.one: missing blobref index=0",
        "flux-fsck: big.two: missing blobref index=1",
        "flux-fsck: deep.d.e: missing dirref blobref",
        "flux-fsck: Total errors: 3",
        "big/one: missing blobref 0: No such file or directory",
        "big/one: missing blobref 0: No such file or directory",
        "big/two: missing blobref 1: No such file or directory",
        "deep/d/e: could not load content: No such file or directory",
    ]


def test_fsck_repair(damaged: Path, tmp_path: Path) -> None:
    done = shell("-s1", f"-Sstatedir={damaged}", script="flux fsck --repair", cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("flux-fsck")]
    assert lines == [
        "flux-fsck: big.one: missing blobref(s)",
        "flux-fsck: big.one repaired and moved to lost+found",
        "flux-fsck: big.two: missing blobref(s)",
        "flux-fsck: big.two repaired and moved to lost+found",
        "flux-fsck: deep.d.e: missing dirref blobref",
        "flux-fsck: deep.d.e unlinked due to missing blobref",
        "flux-fsck: Total errors: 3",
        "flux-fsck: Updated primary checkpoint to include lost+found",
        "flux-fsck: Total repairs: 2",
        "flux-fsck: Total unlinked directories: 1",
    ]
    script = (
        "flux fsck -q && flux kvs get lost+found.big.two && flux kvs get --raw lost+found.big.one; flux kvs ls big"
    )
    done = shell("-s1", f"-Sstatedir={damaged}", script=script, cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["y" * 200]


@pytest.mark.slow
def test_fsck_moves_whole_jobs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    script = "flux run seq 100 >&2; flux kvs get --treeobj $(flux job id --to=kvs $(flux job last)).guest.output"
    done = shell("-s1", f"-Sstatedir={state}", script=script, cwd=tmp_path)
    _lose(state, json.loads(done.stdout)["data"][-1])
    script = "flux fsck --repair --job-aware -q; flux jobs -a -n; flux kvs ls -R lost+found | grep eventlog"
    shell("-s1", f"-Sstatedir={state}", script=script, cwd=tmp_path)
    done = shell(
        "-s1", f"-Sstatedir={state}", script="flux fsck && flux jobs -a -n; flux kvs ls -R lost+found", cwd=tmp_path
    )
    assert "jobspec" in done.stdout
    assert "COMPLETED" not in done.stdout


@pytest.mark.system_flux
def test_both_ways(system_flux: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    script = f"{FILL}; flux run echo hello; flux dump -q ours.tgz"
    assert shell("-s1", f"-Sstatedir={state}", script=script, cwd=tmp_path).code == 0
    show = "flux jobs -a -n -o '{name} {status}' && flux job attach $(flux job last)"
    look = f"flux fsck && flux kvs get big.two && {show}"

    def theirs(*arguments: str, script: str) -> str:
        command = [system_flux, "start", "-s1", *arguments, "sh", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = ["y" * 200 + "z" * 100, "echo COMPLETED", "hello"]
    assert theirs("--recovery=ours.tgz", script=look).splitlines()[1:] == expected
    assert theirs(f"--recovery={state}", script=look).splitlines()[1:] == expected
    assert theirs(f"-Sstatedir={state}", script=f"{look}; flux dump -q theirs.tar").splitlines()[1:] == expected
    for target in ("theirs.tar", str(state)):
        done = shell("-s1", f"--recovery={target}", script=look, cwd=tmp_path)
        assert done.stdout.splitlines()[1:] == expected
