"""Every recorded job of flux-core 0.88: the same jobspec gives the same events, output records and exit code."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.protocol.wait_status import exit_code
from tests.broker.exec.conftest import Runner

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "flux-0.88.0-jobs.json").read_text(encoding="utf-8")
)
_VARIES = frozenset(("pid", "service", "userid"))


def _plain(events: list[dict[str, Any]]) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Names, the members of contexts in their order, and what in them is the same in every run."""
    plain = []
    for event in events:
        context = event.get("context", {})
        kept = {name: value for name, value in context.items() if name not in _VARIES}
        plain.append((event["name"], list(context), kept))
    return plain


def _streams(events: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What each task has put out, in order. How tasks and streams follow each other differs from run to run."""
    streams: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in events[1:]:
        context = event["context"]
        streams.setdefault((context["stream"], context["rank"]), []).append(context)
    return streams


@pytest.mark.parametrize(
    "recorded", RECORDED, ids=lambda recorded: " ".join(recorded["jobspec"]["tasks"][0]["command"])[:20]
)
def test_a_recorded_job(runner: Runner, recorded: dict[str, Any]) -> None:
    jobspec = copy.deepcopy(recorded["jobspec"])
    # They are those of the machine that recorded this; a smaller one logs that it cannot grant them.
    del jobspec["attributes"]["system"]["shell"]["options"]["rlimit"]
    jobid = runner.jobs.submit(jobspec)
    if any(event.get("context", {}).get("type") == "cancel" for event in recorded["events"]):
        runner.jobs.wait_event(jobid, "shell.start", "guest.exec.eventlog", timeout=60)
        runner.jobs.cancel(jobid)
    ended = runner.ended(jobid)
    assert [name for name, _, _ in _plain(ended.events)] == [name for name, _, _ in _plain(recorded["events"])]
    assert _plain(ended.events)[5:] == _plain(recorded["events"])[5:]
    ours, theirs = _plain(ended.exec), _plain(recorded["exec"])
    if recorded["exec"][2]["context"]["size"] > 1:
        # Which task ends first is chance.
        for events in (ours, theirs):
            next(event for event in events if event[0] == "shell.task-exit")[2].clear()
    assert ours == theirs
    assert _plain(ended.output)[0] == _plain(recorded["output"])[0]
    assert _streams(ended.output) == _streams(recorded["output"])
    assert exit_code(ended.status) == recorded["rc"]
