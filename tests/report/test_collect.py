"""What is collected from an instance, on both engines, and from one in which not everything answers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import pytest_flux
from pytest_flux import FluxInstance
from pytest_flux.report.collect import collect, facts


@pytest.fixture
def instance(engine: str) -> Iterator[FluxInstance]:
    with pytest_flux.start(size=3, broker=engine, attrs={"tbon.topo": "kary:1"}, personality="job") as instance:
        yield instance


def test_everything(instance: FluxInstance) -> None:
    started = time.time()
    both = instance.submit(["true"], nodes=2, num_tasks=2)
    failed = instance.submit("echo no >&2; exit 3")
    assert failed.result().exit_code == 3
    both.result()
    held = instance.submit(["hostname"], urgency=0)
    held.wait_event("priority")
    instance.run(["flux", "exec", "-r", "2", "flux", "logger", "--severity=err", "<b>"], check=True)

    found = collect(instance.client)
    assert found["notes"] == []
    assert found["size"] == 3
    assert len(found["hosts"]) == 3
    assert [(broker["rank"], broker["parent"], broker["status"]) for broker in found["overlay"]] == [
        (0, -1, "full"),
        (1, 0, "full"),
        (2, 1, "full"),
    ]
    jobs = {job["number"]: job for job in found["jobs"]}
    assert jobs[str(both.id)]["result"] == "COMPLETED"
    assert jobs[str(both.id)]["nnodes"] == 2
    times = jobs[str(both.id)]["times"]
    assert times == sorted(times)
    assert started <= times[0] <= times[-1] <= found["ended"]
    assert (jobs[str(failed.id)]["result"], jobs[str(failed.id)]["code"]) == ("FAILED", 3)
    waiting = jobs[str(held.id)]
    assert "result" not in waiting
    assert waiting["state"] in ("PRIORITY", "SCHED")
    assert waiting["times"][4:] == [None, None, None]
    assert set(found["stories"]) == {jobs[str(failed.id)]["id"], waiting["id"]}
    assert "stderr:\nno" in found["stories"][jobs[str(failed.id)]["id"]]
    assert [line[1:] for line in found["log"] if line[4] == "<b>"] == [[2, 3, "logger", "<b>"]]
    stamps = [line[0] for line in found["log"]]
    assert stamps == sorted(stamps)
    assert {line[1] for line in found["log"]} == {0, 1, 2}
    shown = facts(found)
    assert shown["size"] == "3"
    assert shown["jobs"].startswith("3 (")


def test_a_rank_is_dead() -> None:
    with pytest_flux.start(size=4, broker="embedded", attrs={"tbon.topo": "kary:1"}) as instance:
        instance.brokers[2].kill()
        instance.wait_status("degraded")
        found = collect(instance.client)
    status = {broker["rank"]: broker["status"] for broker in found["overlay"]}
    assert status[0] == "degraded"
    assert status[1] in ("degraded", "partial")
    assert status[2] == "lost"
    assert status[3] in ("lost", "offline", "unknown")
    assert {note.partition(":")[0] for note in found["notes"]} == {"log of rank 2", "log of rank 3"}


def test_nobody_answers() -> None:
    """A rank that is stopped costs no more than the patience, and the rest is there."""
    with pytest_flux.start(size=2, broker="embedded") as instance:
        instance.brokers[1].stop()
        began = time.monotonic()
        found = collect(instance.client, 0.5)
        assert time.monotonic() - began < 30
        assert any(note.startswith("log of rank 1") for note in found["notes"])
        assert {line[1] for line in found["log"]} == {0}
