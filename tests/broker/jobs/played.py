"""A broker in the test's process, and an executor that plays jobs instead of running them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_flux.broker import defaults
from pytest_flux.broker.attributes import Attributes
from pytest_flux.broker.boot.boot import bootstrap
from pytest_flux.broker.broker import Broker
from pytest_flux.broker.jobs.job import Job
from pytest_flux.broker.jobs.start import Callbacks
from pytest_flux.broker.log import BrokerLog
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import Message
from pytest_flux.protocol.resource_pool import ResourcePool
from pytest_flux.protocol.resource_set import ResourceSet
from pytest_flux.protocol.signed_jobspec import sign_none
from pytest_flux.reactor.clock import Clock
from pytest_flux.reactor.reactor import Reactor

_PATIENCE = 20.0

ENDS = {"timeout": 142 << 8}
"""Wait statuses of a shell after a fatal exception, by its type: its tasks' signal plus 128."""


class Executor:
    """Plays ``true``, ``exit N`` and ``sleep``; ``end`` ends the last one."""

    def __init__(self) -> None:
        self.jobs: dict[int, Callbacks] = {}
        self.started: list[int] = []
        self.expirations: dict[int, float] = {}

    def start(self, job: Job, resources: dict[str, Any], callbacks: Callbacks) -> None:
        self.started.append(job.id)
        self.jobs[job.id] = callbacks
        callbacks.started(lambda: None)
        command = (job.jobspec["tasks"] or [{"command": ["true"]}])[0]["command"]
        if command[0] != "sleep":
            self.end(job.id, int(command[1]) << 8 if command[0] == "exit" else 0)

    def end(self, job_id: int, status: int) -> None:
        callbacks = self.jobs.pop(job_id, None)
        if callbacks is not None:
            callbacks.finished(status)
            callbacks.released()

    def terminate(self, job_id: int, kind: str) -> None:
        self.end(job_id, ENDS.get(kind, 143 << 8))

    def expiration(self, job_id: int, expiration: float) -> None:
        self.expirations[job_id] = expiration


class StoppedClock(Clock):
    """A clock that stands still until the test changes ``now``."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Call:
    """A request and its answers."""

    def __init__(
        self, instance: PlayedInstance, topic: str, payload: dict[str, Any] | None, *, streaming: bool
    ) -> None:
        self._instance = instance
        self.answers: list[dict[str, Any]] = []
        self.error: FluxError | None = None
        router = instance.broker.router
        self.matchtag = router.rpc(topic, payload, self._answered, streaming=streaming)

    def _answered(self, message: Message) -> None:
        if message.errnum:
            text = (message.payload or b"").rstrip(b"\0").decode() or None
            self.error = FluxError(message.errnum, text)
        else:
            self.answers.append(message.json() if message.payload else {})
        self._instance.broker.reactor.stop()

    def get(self) -> dict[str, Any]:
        """Return the only answer, or raise the error."""
        self._instance.run_until(lambda: bool(self.answers or self.error))
        if self.error is not None:
            raise self.error
        return self.answers[0]

    def all(self) -> list[dict[str, Any]]:
        """Return all answers of a stream, after its end."""
        self._instance.run_until(lambda: self.error is not None)
        return self.answers


class PlayedInstance:
    """One broker in this process whose executor plays jobs, with ``ranks`` nodes of four cores each."""

    def __init__(self, broker: Broker, ranks: int = 2) -> None:
        self.broker = broker
        self.manager = broker.parts.play_jobs()
        self.executor = Executor()
        self.manager.events.listen(lambda *_: broker.reactor.stop())
        resources = {
            "version": 1,
            "execution": {
                "R_lite": [{"rank": f"0-{ranks - 1}" if ranks > 1 else "0", "children": {"core": "0-3"}}],
                "starttime": 0.0,
                "expiration": 0.0,
                "nodelist": [",".join(f"node{rank}" for rank in range(ranks))],
            },
        }
        self.pool = ResourcePool(ResourceSet.decode(resources))
        self.manager.start.use(self.executor)
        self.manager.alloc.go_online(self.pool)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run the broker until ``condition`` holds."""
        reactor = self.broker.reactor
        deadline = time.monotonic() + _PATIENCE
        timer = reactor.call_later(_PATIENCE, reactor.stop)
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            reactor.run()
        timer.cancel()

    def call(self, topic: str, payload: dict[str, Any] | None = None, *, streaming: bool = False) -> Call:
        """Send a request."""
        return Call(self, topic, payload, streaming=streaming)

    def rpc(self, topic: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return self.call(topic, payload).get()

    def submit(self, spec: dict[str, Any], *, urgency: int = 16, flags: int = 0) -> int:
        """Submit a job; its id."""
        payload = {"J": sign_none(encode(spec), os.getuid()), "urgency": urgency, "flags": flags}
        job_id: int = self.rpc("job-ingest.submit", payload)["id"]
        return job_id

    def job(self, job_id: int) -> Job:
        """The job of that id."""
        found = self.manager.table.find(job_id)
        assert found is not None
        return found

    def wait_state(self, job_id: int, mask: int) -> Job:
        """Wait until a job has been in a state."""
        self.run_until(lambda: bool(self.job(job_id).states_mask & mask))
        return self.job(job_id)

    def wait_end(self, *job_ids: int) -> None:
        """Wait until jobs are inactive and all changes are in the KVS."""
        self.run_until(lambda: all(job_id in self.manager.table.inactive for job_id in job_ids))
        self.settle()

    def settle(self) -> None:
        """Wait until all changes are in the KVS."""
        settled: list[int] = []

        def done(errnum: int) -> None:
            settled.append(errnum)
            self.broker.reactor.stop()

        self.manager.batch.afterwards(done)
        self.run_until(lambda: bool(settled))

    def events(self, job_id: int) -> list[str]:
        """The names of a job's events."""
        return [event["name"] for event in self.job(job_id).eventlog]


def encode(spec: object) -> bytes:
    """JSON text."""
    import json

    return json.dumps(spec).encode()


def jobspec(*command: str, nodes: int = 0, slots: int = 1, cores: int = 1, **system: Any) -> dict[str, Any]:  # noqa: ANN401
    """A jobspec as `flux submit` makes it; ``system`` are members of ``attributes.system``."""
    slot = {"type": "slot", "count": slots, "with": [{"type": "core", "count": cores}], "label": "task"}
    return {
        "resources": [{"type": "node", "count": nodes, "with": [slot]}] if nodes else [slot],
        "tasks": [{"command": list(command or ("true",)), "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 0, "cwd": "/tmp", "environment": {"A": "1"}, **system}},
        "version": 1,
    }


@contextmanager
def played_instance(
    directory: Path, config: dict[str, Any] | None = None, *, ranks: int = 2
) -> Iterator[PlayedInstance]:
    """Bring up an instance whose state is in ``directory``."""
    attributes = Attributes()
    attributes.set("hostlist", ",".join(f"node{rank}" for rank in range(ranks)))
    attributes.set("rundir", str(directory))
    attributes.set("statedir", str(directory))
    attributes.set("statedir-cleanup", "0")
    attributes.set("log-stderr-level", "3")
    for name, value in defaults.ATTRIBUTES.items():
        attributes.setdefault(name, value)
    boot = bootstrap({}, {}, "node0", method="single")
    reactor = Reactor()
    log = BrokerLog(attributes)
    log.initialize(0, lambda line: None)
    broker = Broker(reactor, attributes, config or {}, log, boot)
    try:
        yield PlayedInstance(broker, ranks)
    finally:
        broker.parts.kvs.close()
        broker.parts.content.close()
        reactor.close()
        boot.close()
