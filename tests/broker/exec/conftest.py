"""An instance that the tests of this directory share, and what they ask of it."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_flux import flux_instance
from pytest_flux.client.jobspec import from_command
from pytest_flux.instance.flux_instance import FluxInstance
from pytest_flux.protocol.eventlog import decode_event

DEADLINE = 60.0


class Runner:
    """Runs jobs to their end."""

    def __init__(self, instance: FluxInstance) -> None:
        self.instance = instance
        self.jobs = instance.client.jobs

    def submit(self, *command: str, options: dict[str, Any] | None = None, **how: Any) -> int:  # noqa: ANN401
        """Submit a command with these options of the shell; the others are those of ``from_command``."""
        how.setdefault("environment", dict(self.instance.env))
        jobspec = from_command(list(command), **how)
        shell = jobspec["attributes"]["system"].setdefault("shell", {}).setdefault("options", {})
        shell.update(options or {})
        return self.jobs.submit(jobspec)

    def run(self, *command: str, options: dict[str, Any] | None = None, **how: Any) -> Ended:  # noqa: ANN401
        """The same, and wait."""
        return self.ended(self.submit(*command, options=options, **how))

    def ended(self, jobid: int) -> Ended:
        """What a job has come to."""
        self.jobs.wait_event(jobid, "clean", timeout=DEADLINE)
        return Ended(self, jobid)

    def log(self, jobid: int, path: str) -> list[dict[str, Any]]:
        """One of a job's logs."""
        text = self.jobs.lookup(jobid, path)[path]
        return [dict(decode_event(line)) for line in text.splitlines()]


class Ended:
    """A job that is over."""

    def __init__(self, runner: Runner, jobid: int) -> None:
        self.id = jobid
        self.events = runner.log(jobid, "eventlog")
        self.exec = runner.log(jobid, "guest.exec.eventlog")
        self.output = runner.log(jobid, "guest.output")

    @property
    def status(self) -> int:
        """The wait status."""
        return int(next(event for event in self.events if event["name"] == "finish")["context"]["status"])

    @property
    def exceptions(self) -> list[dict[str, Any]]:
        """The contexts of its exceptions."""
        return [event["context"] for event in self.events if event["name"] == "exception"]

    def text(self, stream: str = "stdout", rank: str | None = None) -> str:
        """What tasks have put out, as text."""
        data = [event["context"] for event in self.output if event["name"] == "data"]
        mine = [io for io in data if io["stream"] == stream and rank in (None, io["rank"])]
        return "".join(io.get("data", "") for io in mine)

    @property
    def messages(self) -> list[str]:
        """The shells' own messages."""
        return [event["context"]["message"] for event in self.output if event["name"] == "log"]


instance = flux_instance(size=2, broker="embedded", scope="module")
"""Two brokers."""


@pytest.fixture
def runner(instance: FluxInstance) -> Runner:
    """Runs jobs in the shared instance."""
    return Runner(instance)
