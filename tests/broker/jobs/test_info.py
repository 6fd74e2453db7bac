"""job-info: looking up and following."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.broker.kvs.transaction import APPEND, Op
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.eventlog import encode_event, make_event
from pytest_flux.protocol.fluid import kvs_key
from pytest_flux.protocol.job_state import RUN
from tests.broker.jobs.played import Call, PlayedInstance, jobspec, played_instance

LINE = '{"timestamp":%d.0,"name":"data"}\n'


def _watch(flux: PlayedInstance, job_id: int, path: str = "eventlog", flags: int = 0) -> Call:
    request = {"id": job_id, "path": path, "flags": flags}
    return flux.call("job-info.eventlog-watch", request, streaming=True)


def _names(call: Call) -> list[str]:
    return [json.loads(answer["event"])["name"] if answer else "" for answer in call.answers]


def test_lookup(tmp_path: Path) -> None:
    """As text or as JSON, as it was or as it is."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"), urgency=0)
        flux.rpc("job-manager.update", {"id": job_id, "updates": {"attributes.system.duration": 50.0}})
        flux.rpc("job-manager.urgency", {"id": job_id, "urgency": 16})
        flux.wait_state(job_id, RUN)
        flux.rpc("job-manager.update", {"id": job_id, "updates": {"attributes.system.duration": 100.0}})

        def look(key: str, flags: int) -> Any:  # noqa: ANN401
            answer = flux.rpc("job-info.lookup", {"id": job_id, "keys": [key], "flags": flags})
            assert answer["id"] == job_id
            return answer[key]

        assert json.loads(look("jobspec", 0))["attributes"]["system"]["duration"] == 0
        assert look("jobspec", 1)["attributes"]["system"]["duration"] == 0
        assert look("jobspec", 3)["attributes"]["system"]["duration"] == 100.0
        assert '"duration": 100.0' in look("jobspec", 2)
        before, after = look("R", 1)["execution"], look("R", 3)["execution"]
        assert after["expiration"] == pytest.approx(before["starttime"] + 100)
        assert before["expiration"] == pytest.approx(before["starttime"] + 50)
        assert flux.rpc("job-info.update-lookup", {"id": job_id, "key": "R", "flags": 0})["R"]["execution"] == after
        assert look("eventlog", 3).count("jobspec-update") == 2


@pytest.mark.parametrize(
    ("topic", "change", "errnum", "text"),
    [
        ("lookup", {"id": 1}, errno.ENOENT, "invalid job id"),
        ("lookup", {"keys": ["foo"]}, errno.ENOENT, "foo: key not found"),
        ("lookup", {"keys": ["R"]}, errno.ENOENT, "R: key not found"),
        ("lookup", {"keys": [1]}, errno.EPROTO, ""),
        ("lookup", {"flags": 8}, errno.EPROTO, "lookup request rejected with invalid flag"),
        ("update-lookup", {"key": "J"}, errno.EINVAL, "update-lookup unsupported key specified"),
        ("update-watch", {"key": "R"}, errno.EPROTO, "without streaming RPC flag"),
        ("eventlog-watch", {}, errno.EPROTO, "eventlog-watch request rejected without streaming RPC flag"),
        ("eventlog-watch", {"flags": 4}, errno.EPROTO, "eventlog-watch request rejected with invalid flag"),
    ],
)
def test_what_is_refused(tmp_path: Path, topic: str, change: dict[str, Any], errnum: int, text: str) -> None:
    """In flux-core's words."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec(), urgency=0)
        request = {"id": job_id, "keys": [], "flags": 0, "path": "eventlog", "key": "R", **change}
        with pytest.raises(FluxError) as caught:
            flux.rpc(f"job-info.{topic}", request)
        assert caught.value.errnum == errnum
        assert text in (caught.value.text or "")


def test_following_a_job(tmp_path: Path) -> None:
    """From before its end, and after it; with a mark between what was and what comes."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"))
        flux.wait_state(job_id, RUN)
        early, marked = _watch(flux, job_id), _watch(flux, job_id, flags=2)
        flux.run_until(lambda: {} in marked.answers)
        flux.executor.end(job_id, 0)
        flux.wait_end(job_id)
        late = _watch(flux, job_id)
        for call in (early, marked, late):
            call.all()
            assert call.error is not None
            assert call.error.errnum == errno.ENODATA
            assert [name for name in _names(call) if name] == flux.events(job_id)
        assert "" in _names(marked)[4:-1]
        assert flux.rpc("job-info.stats-get")["watchers"] == 0


def test_cancelling(tmp_path: Path) -> None:
    """Ends a stream in the usual way; a client that goes gets nothing more."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"))
        call = _watch(flux, job_id)
        flux.call("job-info.eventlog-watch-cancel", {"matchtag": call.matchtag})
        call.all()
        assert call.error is not None
        assert call.error.errnum == errno.ENODATA
        _watch(flux, job_id)
        assert flux.rpc("job-info.stats-get")["watchers"] == 1
        flux.broker.router.rpc("job-info.disconnect")
        assert flux.rpc("job-info.stats-get")["watchers"] == 0


def _write(flux: PlayedInstance, key: str, number: int, namespace: str = "primary") -> None:
    op = Op(key, treeobj.val((LINE % number).encode()), APPEND)
    flux.broker.parts.kvs.commit([op], namespace=namespace)


@pytest.mark.parametrize("own_namespace", [True, False])
@pytest.mark.parametrize("early", [True, False])
def test_guest_logs(tmp_path: Path, *, own_namespace: bool, early: bool) -> None:
    """Wherever they are while the job runs, and whenever one begins to look; nothing comes twice."""
    with played_instance(tmp_path) as flux:
        kvs = flux.broker.parts.kvs
        job_id = flux.submit(jobspec("sleep"), urgency=0)
        calls = [_watch(flux, job_id, "guest.output", 1)] if early else []
        namespace, key = "primary", kvs_key(job_id, "guest.output")
        if own_namespace:
            namespace, key = f"job-{job_id}", "output"
            kvs.create_namespace(namespace)
        flux.rpc("job-manager.urgency", {"id": job_id, "urgency": 16})
        flux.wait_state(job_id, RUN)
        _write(flux, key, 1, namespace)
        calls.append(_watch(flux, job_id, "guest.output", 3))
        flux.run_until(lambda: all({"event": LINE % 1} in call.answers for call in calls))
        _write(flux, key, 2, namespace)
        flux.run_until(lambda: all({"event": LINE % 2} in call.answers for call in calls))
        _write(flux, key, 3, namespace)
        if own_namespace:
            kvs.graft(namespace, kvs_key(job_id, "guest"))
            kvs.settle()
            kvs.remove_namespace(namespace)
        flux.executor.end(job_id, 0)
        flux.wait_end(job_id)
        calls.append(_watch(flux, job_id, "guest.output"))
        for call in calls:
            call.all()
            assert [answer["event"] for answer in call.answers if answer] == [LINE % number for number in (1, 2, 3)]


def test_a_guest_log_that_never_is(tmp_path: Path) -> None:
    """A job that did not start ends the stream; one that wrote nothing has no such key."""
    with played_instance(tmp_path) as flux:
        never = flux.submit(jobspec(), urgency=0)
        call = _watch(flux, never, "guest.output", 1)
        flux.rpc("job-manager.raise", {"id": never, "type": "cancel", "severity": 0})
        call.all()
        assert call.error is not None
        assert call.error.errnum == errno.ENODATA
        silent = flux.submit(jobspec())
        flux.wait_end(silent)
        call = _watch(flux, silent, "guest.output")
        call.all()
        assert call.error is not None
        assert call.error.errnum == errno.ENOENT


def _append(flux: PlayedInstance, job_id: int, name: str, context: dict[str, Any]) -> None:
    line = encode_event(make_event(name, context, timestamp=1.0))
    op = {"key": f"{kvs_key(job_id)}.eventlog", "flags": APPEND, "dirent": treeobj.val(line.encode()).json()}
    flux.rpc("kvs.commit", {"namespace": "primary", "flags": 0, "ops": [op]})


def test_updates_that_others_write_into_the_log(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep"))
        flux.wait_state(job_id, RUN)
        request = {"id": job_id, "key": "R", "flags": 0}
        call = flux.call("job-info.update-watch", request, streaming=True)
        flux.run_until(lambda: bool(call.answers))
        _append(flux, job_id, "resource-update", {"expiration": 100.0})
        assert flux.rpc("job-info.update-lookup", request)["R"]["execution"]["expiration"] == 100.0
        flux.executor.end(job_id, 0)
        assert [answer["R"]["execution"]["expiration"] for answer in call.all()] == [0.0, 100.0]


def test_a_log_that_is_none(tmp_path: Path) -> None:
    with played_instance(tmp_path) as flux:
        _append(flux, 7, "submit", {})
        with pytest.raises(FluxError, match="error parsing eventlog"):
            flux.rpc("job-info.lookup", {"id": 7, "keys": ["eventlog"], "flags": 0})


def test_following_updates(tmp_path: Path) -> None:
    """R with its expiration, until the job is over."""
    with played_instance(tmp_path) as flux:
        job_id = flux.submit(jobspec("sleep", duration=50))
        flux.wait_state(job_id, RUN)
        call = flux.call("job-info.update-watch", {"id": job_id, "key": "R", "flags": 0}, streaming=True)
        flux.run_until(lambda: bool(call.answers))
        flux.rpc("job-manager.update", {"id": job_id, "updates": {"attributes.system.duration": 100.0}})
        flux.executor.end(job_id, 0)
        answers = [answer["R"]["execution"] for answer in call.all()]
        assert [round(each["expiration"] - each["starttime"]) for each in answers] == [50, 100]
