"""Jobs of an earlier run of the instance, as the KVS has them (RFC 16; flux-core's restart.c)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.jobs.events import apply_event
from pytest_flux.broker.jobs.job import Job
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.eventlog import decode_eventlog, encode_event
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.job_state import NEW
from pytest_flux.protocol.jobspec import system_attributes
from pytest_flux.protocol.severity import LOG_ERR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flux.broker.jobs.store import Store
    from pytest_flux.broker.log import BrokerLog

_LEVELS = 4
_VISITS_MIN = 10_000
_VISITS_PER_BLOB = 8
_BYTES_MIN = 64 << 20
_BYTES_PER_BYTE = 16


class JobWalk:
    """Walks ``job.*.*.*.*`` (RFC 16, "Primary KVS Namespace") within bounds that follow from the size of the store.

    A KVS may be damaged or hostile: directories that contain the same directory many times over hold more jobs than
    anybody could count. ``list_names`` lists a directory; ``blobs`` and ``size``, in bytes, describe the whole store.
    """

    def __init__(self, list_names: Callable[[str], list[str]], blobs: int, size: int) -> None:
        self._list_names = list_names
        self._visits = _VISITS_MIN + _VISITS_PER_BLOB * blobs
        self._bytes = _BYTES_MIN + _BYTES_PER_BYTE * size

    def keys(self) -> Iterator[str]:
        """Yield the keys of jobs. Raises ProtocolError if there are more than the store can hold."""
        return self._keys("job", _LEVELS)

    def _keys(self, key: str, levels: int) -> Iterator[str]:
        for name in self._list_names(key):
            self._visits -= 1
            if self._visits < 0:
                raise ProtocolError("more jobs than can be: the others are left out", key)
            if levels > 1:
                yield from self._keys(f"{key}.{name}", levels - 1)
            else:
                yield f"{key}.{name}"

    def spend(self, *read: bytes | None) -> None:
        """Count data that was read. Raises ProtocolError if that is more than the store can hold."""
        self._bytes -= sum(len(data) for data in read if data is not None)
        if self._bytes < 0:
            raise ProtocolError("more data of jobs than can be: the others are left out")


def replay_job(job_id: int, eventlog: bytes, jobspec: bytes, resources: bytes | None) -> Job:
    """Make a job from its data in the KVS. Raises ProtocolError if they make no sense."""
    try:
        specification: dict[str, Any] = json.loads(jobspec)
        system_attributes(specification).pop("environment", None)
        job = Job(job_id, specification)
        if resources is not None:
            allocated: dict[str, Any] = json.loads(resources)
            allocated.pop("scheduling", None)
            job.set_resources(allocated)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("failed to decode job", repr(error)[:200]) from None
    try:
        events = decode_eventlog(eventlog.decode("utf-8", "surrogatepass"))
        if not events or events[0]["name"] != "submit":
            raise ProtocolError("first event is not submit")
        for event in events:
            apply_event(job, event)
            job.record(encode_event(event))
    except (UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError("failed to decode eventlog", repr(error)) from None
    if job.state == NEW:
        raise ProtocolError("job state (NEW) is invalid after replay")
    return job


def stored_jobs(store: Store, log: BrokerLog) -> Iterator[Job]:
    """Yield all jobs in a store. Log those that cannot be replayed."""
    walk = JobWalk(store.list, *store.extent())
    try:
        for key in walk.keys():  # noqa: SIM118 - not a dictionary
            eventlog, jobspec = store.lookup(f"{key}.eventlog"), store.lookup(f"{key}.jobspec")
            resources = store.lookup(f"{key}.R")
            walk.spend(eventlog, jobspec, resources)
            try:
                if eventlog is None or jobspec is None:
                    raise ProtocolError("no eventlog or no jobspec")
                yield replay_job(parse_fluid(key), eventlog, jobspec, resources)
            except ProtocolError as error:
                log.write(LOG_ERR, f"job {key} not replayed: {error}", "job-manager")
    except ProtocolError as error:
        log.write(LOG_ERR, f"restart: {error}", "job-manager")
