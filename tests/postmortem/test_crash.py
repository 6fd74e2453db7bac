"""What is there after the worst: SIGKILL amid work, and files of older versions of Flux."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Collection
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux.client.jobspec import from_command
from pytest_flux.client.kvs import Kvs
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.instance.settings import Settings
from pytest_flux.protocol.job_state import job_result, next_state, state_name
from tests.parity.instances import Engine
from tests.postmortem.load import live_and_die
from tests.postmortem.test_commands import shell

RECORDED = Path(__file__).parent.parent / "conformance" / "data" / "flux-0.88.0"
EMBEDDED = Engine("embedded", os.environ.get("PATH", os.defpath))


def crash(state: Path, rounds: int) -> dict[str, str]:
    """Have an instance do things, and kill its rank 0 amid them. What was answered after ``--sync``."""
    kept: dict[str, str] = {}
    with EMBEDDED.running("-s1", f"-Sstatedir={state}", "--test-exit-timeout=1s") as running:
        flux = running.client()
        kvs = Kvs(flux)
        for number in range(rounds):
            key, value = f"kept.{os.urandom(3).hex()}.n{number}", os.urandom(20 + 40 * number).hex()
            kvs.put(key, value, sync=True)
            kept[key] = value
            flux.jobs.submit(from_command(["seq", "100"] if number % 2 else ["true"]))
            # Of these nobody has promised anything.
            kvs.put(f"lost.n{number}", value)
        running.kill(0)
    return kept


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return state


def check(state: Path, kept: dict[str, str], jobs: Collection[int] = ()) -> None:
    """All that was promised is there, and jobs are what their logs say."""
    with pytest_flux.open_dump(state) as dump:
        assert dump.problems == [] or not kept
        assert set(jobs) <= {job.id for job in dump.jobs()}
        assert {key: dump.kvs.get(key).decode() for key in kept} == kept
        for job in dump.jobs():
            number = 1
            for event in job.events:
                number = next_state(number, event["name"], event.get("context", {}))
            assert job.state == state_name(number)
            finish = [event["context"]["status"] for event in job.events if event["name"] == "finish"]
            assert job.waitstatus == (finish[0] if finish else None)
            if job.result == "COMPLETED":
                assert job_result(not job.waitstatus, None) == 1


@pytest.mark.parametrize("rounds", [3, *(pytest.param(rounds, marks=pytest.mark.slow) for rounds in (1, 9))])
def test_kill_and_recover(state: Path, rounds: int, tmp_path: Path) -> None:
    kept = crash(state, rounds)
    before = {name: (state / name).read_bytes() for name in os.listdir(state)}
    check(state, kept)
    keys = " ".join(kept)
    done = shell("-s1", f"--recovery={state}", script=f"flux kvs get {keys}; flux jobs -a --json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[: len(kept)] == list(kept.values())
    states = {job["id"]: job["state"] for job in json.loads("\n".join(lines[len(kept) :]))["jobs"]}
    with pytest_flux.open_dump(state) as dump:
        assert states == {job.id: job.state for job in dump.jobs()}
    # Looking has changed nothing, the log of SQLite that the dead broker left included.
    assert {name: (state / name).read_bytes() for name in os.listdir(state)} == before


def check_instance(state: Path, kept: dict[str, str]) -> None:
    """The same, as an instance in recovery tells it."""
    with FluxInstance(Settings(broker="embedded", recovery=str(state))) as instance:
        kvs = instance.kvs
        assert {key: kvs.get(key).decode() for key in kept} == kept
        states = {job["id"]: state_name(job["state"]) for job in instance.client.jobs.list(["state"])}
    with pytest_flux.open_dump(state) as dump:
        assert states == {job.id: job.state for job in dump.jobs()}


def kill_again_and_again(directory: Path, instances: int, lives: int) -> None:
    """Each life begins with what the one before has left."""
    dice = random.Random(instances)
    for number in range(instances):
        state = directory / str(number)
        state.mkdir(mode=0o700)
        kept: dict[str, str] = {}
        jobs: set[int] = set()
        for life in range(lives):
            load = live_and_die(state, dice.uniform(0.0, 0.2))
            kept |= load.kept
            jobs |= load.jobs
            if (state / "content.sqlite").exists():
                check(state, kept, jobs)
            else:
                # Killed at birth.
                assert not kept
                assert not jobs
            if life % 5 == 4:
                check_instance(state, kept)
        assert kept
        assert jobs


def test_ten_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 2, 5)


@pytest.mark.slow
@pytest.mark.soak
def test_two_hundred_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 20, 10)


def test_a_log_of_sqlite_that_ends_amid_a_page(state: Path) -> None:
    kept = crash(state, 4)
    log = state / "content.sqlite-wal"
    data = log.read_bytes()
    assert data
    log.write_bytes(data + data[-5000:][:3000])
    check(state, kept)
    log.write_bytes(data[: len(data) // 2])
    with pytest_flux.open_dump(state) as dump:
        # Of commits whose pages are lost, older ones are left.
        assert len(dump.jobs()) <= 4


def test_the_root_of_the_newest_checkpoint_is_gone(state: Path, tmp_path: Path) -> None:
    for value in "12":
        script = f"flux kvs put --sync a={value}"
        assert shell("-s1", f"-Sstatedir={state}", script=script, cwd=tmp_path).code == 0
    database = sqlite3.connect(state / "content.sqlite")
    rows = database.execute("SELECT value FROM checkpt_v2 ORDER BY id DESC").fetchall()
    ends = [json.loads(row[0]) for row in rows]
    lost = [end for end in ends if end["sequence"] >= ends[0]["sequence"]]
    for end in lost:
        digest = bytes.fromhex(end["rootref"][5:])
        database.execute("DELETE FROM objects WHERE hash = CAST(? AS TEXT)", (digest,))
    database.commit()
    database.close()
    for start in (f"--recovery={state}", f"-Sstatedir={state}"):
        done = shell("-s1", start, script="flux kvs get a", cwd=tmp_path)
        assert (done.code, done.stdout) == (0, "2\n")
        assert f"checkpoint 0 (sequence {ends[0]['sequence']}, {ends[0]['rootref']}): " in done.stderr
        assert f"beginning with the older checkpoint {len(lost)} " in done.stderr


def _age(path: Path, *, value: str | None = None) -> None:
    """Make a database what flux-core 0.50 wrote: one checkpoint, by name, and no epochs."""
    database = sqlite3.connect(path)
    newest = database.execute("SELECT value FROM checkpt_v2 ORDER BY id DESC LIMIT 1").fetchone()[0]
    checkpoint = {name: content for name, content in json.loads(newest).items() if name != "sequence"}
    database.executescript(
        """
        CREATE TABLE old (hash BLOB PRIMARY KEY, size INT, object BLOB);
        INSERT INTO old SELECT hash, size, object FROM objects;
        DROP TABLE objects; ALTER TABLE old RENAME TO objects;
        DROP TABLE checkpt_v2;
        CREATE TABLE checkpt (key TEXT UNIQUE, value TEXT);
        """
    )
    database.execute("INSERT INTO checkpt VALUES ('kvs-primary', ?)", (value or json.dumps(checkpoint),))
    database.commit()
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("version", [0, 1])
def test_older_databases(state: Path, version: int, tmp_path: Path) -> None:
    shutil.copy(RECORDED / "content.sqlite", state)
    database = sqlite3.connect(state / "content.sqlite")
    newest = database.execute("SELECT value FROM checkpt_v2 ORDER BY id DESC LIMIT 1").fetchone()[0]
    database.close()
    _age(state / "content.sqlite", value=None if version else json.loads(newest)["rootref"])
    before = (state / "content.sqlite").read_bytes()
    with pytest_flux.open_dump(state) as dump:
        assert len(dump.jobs()) == 7
    done = shell("-s1", f"--recovery={state}", script="flux jobs -a -n -o {name} | wc -l", cwd=tmp_path)
    assert (done.code, done.stdout.strip()) == (0, "7")
    assert (state / "content.sqlite").read_bytes() == before
    done = shell("-s1", f"-Sstatedir={state}", script="flux jobs -A -a -n -o {name} | wc -l", cwd=tmp_path)
    assert (done.code, done.stdout.strip()) == (0, "7")


def test_a_running_instance_is_left_alone(state: Path) -> None:
    with EMBEDDED.running("-s1", f"-Sstatedir={state}") as running:
        kvs = Kvs(running.client())
        kvs.put("a", "1", sync=True)
        with pytest.raises(OSError, match="is in use by an instance that is running"):
            pytest_flux.open_dump(state)
        kvs.put("a", "2", sync=True)
    with pytest_flux.open_dump(state) as dump:
        assert dump.kvs.get("a") == b"2"


def test_a_restart_goes_on(state: Path, tmp_path: Path) -> None:
    """Ids go on, queues and drains are as they were."""
    script = "flux run true; flux queue disable --message=maintenance; flux resource drain 0 broken; flux job last"
    first = shell("-s2", f"-Sstatedir={state}", script=script, cwd=tmp_path)
    assert first.code == 0, first.stderr
    script = "flux queue status; flux queue enable; flux resource undrain 0; flux run true; flux jobs -an"
    second = shell("-s2", f"-Sstatedir={state}", script=script, cwd=tmp_path)
    assert second.code == 0, second.stderr
    assert "Job submission is disabled: maintenance" in second.stdout
    assert len([line for line in second.stdout.splitlines() if " CD " in line]) == 2
