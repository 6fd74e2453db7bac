"""`open_dump`: jobs, events, output and KVS, without a broker."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux.postmortem.dump import Dump
from pytest_flux.protocol.errors import FluxError, ProtocolError

DATA = Path(__file__).parent.parent / "conformance" / "data"
RECORDED = DATA / "flux-0.88.0"
JOBS = sorted(path.name for path in (RECORDED / "job").iterdir())


@pytest.fixture(scope="module", params=["archive", "statedir"])
def dump(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dump]:
    path = RECORDED / "dump.tar"
    if request.param == "statedir":
        path = tmp_path_factory.mktemp("state")
        shutil.copy(RECORDED / "content.sqlite", path)
    with pytest_flux.open_dump(path) as dump:
        yield dump
        assert dump.problems == []


def test_jobs(dump: Dump) -> None:
    def show(value: object) -> str:
        return "" if value is None else str(value)

    lines = [
        f"{job.f58} {job.id} {job.name} {job.ntasks} {job.nnodes} {job.status} {show(job.returncode)} "
        f"{job.exception[0] if job.exception else ''}"
        for job in dump.jobs()
    ]
    assert lines == (RECORDED / "jobs.txt").read_text().splitlines()


@pytest.mark.parametrize("name", JOBS)
def test_output_and_events(dump: Dump, name: str) -> None:
    recorded = RECORDED / "job" / name
    job = dump.job(int(name))
    assert job.stdout == (recorded / "stdout").read_bytes()
    assert job.stderr == b"".join(
        line
        for line in (recorded / "stderr").read_bytes().splitlines(True)
        if b"flux-job" not in line[:9] and b"job.exc" not in line
    )
    assert job.events == [json.loads(line) for line in (recorded / "eventlog").read_text().strip().splitlines()]
    assert job.log()[-1]["name"] == "done"
    assert dump.job(job.f58) is job
    assert job.R is not None
    assert job.jobspec["tasks"]


def test_values(dump: Dump) -> None:
    for line in (DATA / "kvs-values.txt").read_text().splitlines():
        key, _, text = line.partition(" ")
        assert dump.kvs.get(key) == base64.b64decode(text)
        assert key in dump.kvs
    assert dump.kvs.readlink("d.link") == "a.small"
    assert dump.kvs.get_json("a.json") == {"x": [1, 2, {"y": None}]}
    assert dump.kvs.get_treeobj("a.small") == {"data": "MQ==", "type": "val", "ver": 1}
    assert dump.kvs.list("a") == ["json", "small", "str"]
    assert {"a.small", "deep.x.y.z.w", "d.link"} <= set(dump.kvs.keys())


@pytest.mark.parametrize(("key", "errnum"), [("none", errno.ENOENT), ("a", errno.EISDIR), ("a.b.c", errno.ENOENT)])
def test_no_such_value(dump: Dump, key: str, errnum: int) -> None:
    with pytest.raises(FluxError) as raised:
        dump.kvs.get(key)
    assert raised.value.errnum == errnum


def test_no_such_job(dump: Dump) -> None:
    with pytest.raises(KeyError, match="no job"):
        dump.job(1)


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest_flux.open_dump(RECORDED / "dump.tar"):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    for bad in (Path(__file__), tmp_path):
        with pytest.raises((ProtocolError, OSError)):
            pytest_flux.open_dump(bad)
    assert os.listdir(tmp_path) == []


def test_part_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "dump.tar"
    path.write_bytes((RECORDED / "dump.tar").read_bytes()[:40000])
    with pytest_flux.open_dump(path) as dump:
        assert dump.problems[0].startswith("the archive is truncated: after ")
        assert dump.kvs.get("a.small") == b"1"
        assert len(dump.jobs()) < len(JOBS)
