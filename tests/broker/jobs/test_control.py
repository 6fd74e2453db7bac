"""job-manager: what is done to jobs, and what is asked of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.job_state import INACTIVE, RUN, SCHED
from tests.broker.jobs.played import PlayedInstance, jobspec, played_instance


def _refused(flux: PlayedInstance, topic: str, payload: dict[str, Any]) -> tuple[int, str]:
    with pytest.raises(FluxError) as caught:
        flux.rpc(topic, payload)
    return caught.value.errnum, caught.value.text or ""


def test_errors_of_control(tmp_path: Path) -> None:
    """In flux-core's words, of jobs that are unknown, over, or not yet that far."""
    with played_instance(tmp_path) as flux:
        over = flux.submit(jobspec())
        flux.wait_end(over)
        held = flux.submit(jobspec(), urgency=0)
        exception = {"type": "cancel", "severity": 0}
        assert _refused(flux, "job-manager.raise", {"id": 1, **exception}) == (errno.ENOENT, "unknown job id")
        assert _refused(flux, "job-manager.raise", {"id": over, **exception}) == (errno.ENOENT, "job is inactive")
        for wrong, text in (({"severity": 8}, "severity"), ({"type": "a b"}, "type"), ({"type": ""}, "type")):
            payload = {"id": held, **exception, **wrong}
            assert _refused(flux, "job-manager.raise", payload) == (errno.EPROTO, f"invalid exception {text}")
        kill = "job-manager.kill"
        assert _refused(flux, kill, {"id": held, "signum": 0}) == (errno.EINVAL, "Invalid signal number")
        assert _refused(flux, kill, {"id": held, "signum": 15}) == (errno.EINVAL, "job is not running")
        assert _refused(flux, kill, {"id": over, "signum": 15}) == (errno.EINVAL, "job is inactive")
        urgency = "job-manager.urgency"
        assert _refused(flux, urgency, {"id": held, "urgency": 32})[1] == "urgency value is out of range"
        assert _refused(flux, urgency, {"id": 1, "urgency": 1}) == (errno.EINVAL, "unknown job")
        assert _refused(flux, "job-manager.memo", {"id": over, "memo": {}}) == (errno.ENOENT, "job is inactive")
        assert _refused(flux, "job-manager.wait", {"id": held})[0] == errno.ECHILD
        assert _refused(flux, "job-manager.wait", {"id": -1}) == (errno.ECHILD, "there are no more waitable jobs")
        assert _refused(flux, "job-manager.getattr", {"id": held, "attrs": ["R"]}) == (errno.ENOENT, "R is NULL")


def test_urgency(tmp_path: Path) -> None:
    """Hold and release: priorities are events, and only what is allocated is beyond reach."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"), urgency=0)
        job = flux.wait_state(job_id, SCHED)
        assert (job.priority, job.is_queued) == (0, False)
        assert flux.rpc("job-manager.urgency", {"id": job_id, "urgency": 31}) == {"old_urgency": 0}
        flux.wait_state(job_id, RUN)
        assert job.priority == 4294967295
        assert flux.events(job_id)[3:7] == ["priority", "urgency", "priority", "alloc"]
        with pytest.raises(FluxError, match="cannot be changed once resources are allocated"):
            flux.rpc("job-manager.urgency", {"id": job_id, "urgency": 1})


def test_order_of_urgency(tmp_path: Path) -> None:
    """The most urgent first, among equals the first that came."""
    with played_instance(tmp_path, ranks=1) as flux:
        first = flux.submit(jobspec("sleep", cores=4))
        flux.wait_state(first, RUN)
        low, normal, high = (flux.submit(jobspec("sleep", cores=4), urgency=urgency) for urgency in (8, 16, 20))
        second = flux.submit(jobspec("sleep", cores=4), urgency=16)
        for job_id in (first, high, normal, second):
            flux.wait_state(job_id, RUN)
            flux.executor.end(job_id, 0)
        flux.wait_state(low, RUN)
        assert flux.executor.started == [first, high, normal, second, low]


def test_memo_and_annotations(tmp_path: Path) -> None:
    """Merged, removed by null; volatile ones are not in the log."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"))
        flux.wait_state(job_id, RUN)
        memos: list[tuple[dict[str, Any], bool]] = [
            ({"a": 1, "b": {"c": 2}}, False),
            ({"a": None, "b": {"d": 3}}, False),
            ({"v": 1}, True),
        ]
        for memo, volatile in memos:
            flux.rpc("job-manager.memo", {"id": job_id, "memo": memo, "volatile": volatile})
        assert flux.job(job_id).annotations == {
            "sched": {"resource_summary": "rank0/core0"},
            "user": {"b": {"c": 2, "d": 3}, "v": 1},
        }
        assert flux.events(job_id).count("memo") == 2


def test_signals(tmp_path: Path) -> None:
    """Are events, for the shells of a job to hear."""
    with played_instance(tmp_path) as flux:
        heard: list[tuple[str | None, bytes | None]] = []
        flux.broker.router.subscribe("shell-", lambda message: heard.append((message.topic, message.payload)))
        job_id = flux.submit(jobspec("sleep"))
        flux.wait_state(job_id, RUN)
        flux.rpc("job-manager.kill", {"id": job_id, "signum": 10})
        answer = flux.rpc("job-manager.killall", {"dry_run": False, "userid": -1, "signum": 12})
        assert answer == {"count": 1, "errors": 0}
        assert heard == [(f"shell-{job_id}.kill", b'{"signum":%d}\0' % signum) for signum in (10, 12)]


def test_raise_all(tmp_path: Path) -> None:
    """By state and user; a dry run does nothing."""
    with played_instance(tmp_path) as flux:
        running, held = flux.submit(jobspec("sleep")), flux.submit(jobspec(), urgency=0)
        flux.wait_state(running, RUN)
        flux.wait_state(held, SCHED)
        payload = {"dry_run": True, "userid": 4294967295, "states": 62, "severity": 0, "type": "cancel"}
        assert flux.rpc("job-manager.raiseall", payload) == {"count": 2, "errors": 0}
        assert flux.rpc("job-manager.raiseall", {**payload, "userid": os.getuid() + 1})["count"] == 0
        assert flux.rpc("job-manager.raiseall", {**payload, "states": 14, "dry_run": False})["count"] == 1
        flux.wait_end(held)
        assert flux.job(running).state == RUN
        assert flux.events(held)[-2:] == ["exception", "clean"]


def test_waiting(tmp_path: Path) -> None:
    """Each waitable job is handed out once."""
    with played_instance(tmp_path) as flux:
        good, bad = (flux.submit(jobspec(*command), flags=4) for command in (("sleep",), ("exit", "3")))
        flux.wait_end(bad)
        assert flux.rpc("job-manager.wait", {"id": -1}) == {
            "id": bad,
            "success": False,
            "errstr": "task(s) exited with exit code 3",
        }
        waiting = flux.call("job-manager.wait", {"id": good})
        with pytest.raises(FluxError, match="already has a waiter"):
            flux.rpc("job-manager.wait", {"id": good})
        flux.executor.end(good, 0)
        assert waiting.get() == {"id": good, "success": True, "errstr": ""}
        with pytest.raises(FluxError, match="no more waitable"):
            flux.rpc("job-manager.wait", {"id": -1})
        canceled = flux.submit(jobspec(), flags=4, urgency=0)
        flux.rpc("job-manager.raise", {"id": canceled, "type": "cancel", "severity": 0, "note": "no"})
        assert flux.rpc("job-manager.wait", {"id": canceled})["errstr"] == "Fatal exception type=cancel no"


def test_idle_and_drain(tmp_path: Path) -> None:
    """Nothing runs; nothing is there."""
    with played_instance(tmp_path) as flux:
        assert flux.rpc("job-manager.drain") == {}
        running, held = flux.submit(jobspec("sleep")), flux.submit(jobspec(), urgency=0)
        flux.wait_state(running, RUN)
        idle, drain = flux.call("job-manager.idle"), flux.call("job-manager.drain")
        assert not idle.answers
        flux.executor.end(running, 0)
        assert idle.get() == {"pending": 1}
        assert not drain.answers
        flux.rpc("job-manager.raise", {"id": held, "type": "cancel", "severity": 0})
        assert drain.get() == {}


def test_purge(tmp_path: Path) -> None:
    """From the manager's memory and from the KVS."""
    with played_instance(tmp_path) as flux:
        ids = [flux.submit(jobspec()) for _ in range(4)]
        flux.wait_end(*ids)
        active = flux.submit(jobspec("sleep"))
        limits = {"age_limit": -1.0, "num_limit": 1, "batch": 2}
        assert flux.rpc("job-manager.purge", {**limits, "force": False}) == {"count": 3}
        assert flux.rpc("job-manager.purge", {**limits, "force": True}) == {"count": 2}
        assert flux.rpc("job-manager.purge-id", {"id": ids[2], "force": 1}) == {"count": 1}
        assert _refused(flux, "job-manager.purge-id", {"id": active, "force": 1})[1] == "cannot purge active job"
        assert _refused(flux, "job-manager.purge-id", {"id": 1, "force": 1}) == (errno.ENOENT, "id not found")
        assert _refused(flux, "job-manager.purge", {**limits, "batch": 0, "force": True})[1].startswith("batch must")
        assert list(flux.manager.table.inactive) == [ids[3]]
        stats = flux.rpc("job-list.job-stats")
        assert (stats["inactive_purged"], stats["job_states"]["inactive"], stats["successful"]) == (3, 1, 1)
        with pytest.raises(FluxError, match="invalid job id"):
            flux.rpc("job-info.lookup", {"id": ids[0], "keys": ["eventlog"], "flags": 0})


def test_time_limits(tmp_path: Path) -> None:
    """A job is told when its time is over; its limit may be changed before."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep", duration=0.05))
        longer = flux.submit(jobspec("sleep", duration=0.05))
        flux.wait_state(longer, RUN)
        flux.rpc("job-manager.update", {"id": longer, "updates": {"attributes.system.duration": 100.0}})
        flux.wait_end(job_id)
        assert flux.job(job_id).exception_type == "timeout"
        assert flux.job(longer).state == RUN
        assert flux.events(longer)[-2:] == ["jobspec-update", "resource-update"]
        start = flux.job(longer).eventlog  # the log tells when it will end
        assert start[-1]["context"]["expiration"] == flux.executor.expirations[longer]
        assert flux.job(longer).facts.duration == 100.0
        assert flux.job(longer).facts.expiration == flux.executor.expirations[longer]
        for path, value, text in (
            ("attributes.system.duration", -1, "must not be negative"),
            ("attributes.system.duration", 0.001, "in the past"),
            ("attributes.system.foo", 1, "update of attributes.system.foo not supported"),
            ("foo", 1, "one or more jobspec updates are invalid"),
        ):
            with pytest.raises(FluxError, match=text):
                flux.rpc("job-manager.update", {"id": longer, "updates": {path: value}})


def test_journal(tmp_path: Path) -> None:
    """The past, a sentinel, what comes; with and without filters."""
    with played_instance(tmp_path) as flux:
        over = flux.submit(jobspec())
        flux.wait_end(over)
        full = flux.call("job-manager.events-journal", {"full": True}, streaming=True)
        some = flux.call("job-manager.events-journal", {"allow": {"clean": 1, "submit": 1}}, streaming=True)
        none = flux.call("job-manager.events-journal", {"deny": {"clean": 1}, "full": True}, streaming=True)
        job_id = flux.submit(jobspec())
        flux.wait_end(job_id)
        assert [answer["id"] for answer in full.answers[:2]] == [over, -1]
        assert [event["name"] for event in full.answers[0]["events"]] == flux.events(over)
        assert full.answers[0]["R"]["version"] == full.answers[0]["jobspec"]["version"] == 1
        names = [event["name"] for answer in full.answers[2:] for event in answer["events"]]
        assert [name for name in names if name != "annotations"] == flux.events(job_id)
        assert [event["name"] for answer in some.answers for event in answer["events"]] == ["submit", "clean"]
        assert "clean" not in [event["name"] for answer in none.answers for event in answer["events"]]
        assert flux.rpc("job-manager.stats-get")["journal"]["listeners"] == 3
        flux.call("job-manager.events-journal-cancel", {"matchtag": full.matchtag})
        flux.run_until(lambda: full.error is not None)
        assert flux.rpc("job-manager.stats-get")["journal"]["listeners"] == 2


def test_lists_and_history(tmp_path: Path) -> None:
    """The newest job first; what waits before what runs."""
    with played_instance(tmp_path, ranks=1) as flux:
        ids = [flux.submit(jobspec("sleep", cores=4)) for _ in range(3)]
        flux.wait_state(ids[0], RUN)
        for text, expected in (("[:1]", [ids[2]]), ("[:]", ids[::-1]), ("[1:]", ids[1::-1]), ("[::-1]", ids)):
            assert flux.rpc("job-manager.history.get", {"slice": text})["jobs"] == expected
        for text in ("", "[]", "1", "[::0]", "[a]"):
            with pytest.raises(FluxError, match="slice expression"):
                flux.rpc("job-manager.history.get", {"slice": text})
        listed = flux.rpc("job-manager.list", {"max_entries": 0})["jobs"]
        assert [job["id"] for job in listed] == [ids[1], ids[2], ids[0]]
        assert listed[2]["annotations"] == {"sched": {"resource_summary": "rank0/core[0-3]"}}
        assert flux.rpc("job-manager.alloc-query") == {"queue_length": 0, "alloc_pending": 2, "running": 1}
        attributes = flux.rpc("job-manager.getattr", {"id": ids[0], "attrs": ["jobspec", "R", "eventlog"]})
        assert attributes["R"]["execution"]["nslots"] == 1
        assert "environment" not in attributes["jobspec"]["attributes"]["system"]
        assert ".history" in flux.rpc("job-manager.jobtap", {"query_only": True})["plugins"]


def test_posted_events(tmp_path: Path) -> None:
    """Also of the kind that keeps a job from starting."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec(), urgency=0)
        flux.rpc(
            "job-manager.post-event.post", {"id": job_id, "name": "prolog-start", "context": {"description": "x"}}
        )
        flux.rpc("job-manager.urgency", {"id": job_id, "urgency": 16})
        flux.wait_state(job_id, RUN)
        assert not flux.executor.started
        flux.rpc(
            "job-manager.post-event.post", {"id": job_id, "name": "prolog-finish", "context": {"description": "x"}}
        )
        flux.wait_end(job_id)
        assert flux.job(job_id).state == INACTIVE
        other = flux.submit(jobspec(), urgency=0)
        payload = {"id": other, "name": "finish", "context": {}}
        with pytest.raises(FluxError, match="does not make sense"):
            flux.rpc("job-manager.post-event.post", payload)
