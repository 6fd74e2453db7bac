"""What an instance is launched with."""

from __future__ import annotations

import json
import os

import pytest_flux
from pytest_flux.instance.preparation import CORES_PER_RANK
from pytest_flux.protocol.resource_set import ResourceSet


def test_the_personality_job_has_cores_that_are_made_up() -> None:
    """However many cores the machine has: the broker must have read the R that was written for it."""
    with pytest_flux.start(size=2, broker="embedded", personality="job") as flux:
        path = flux.rpc("config.get", {})["resource"]["path"]
        with open(path, encoding="utf-8") as file:
            written = ResourceSet.decode(json.load(file))
        assert [node.cores.bit_count() for node in written.nodes.values()] == [CORES_PER_RANK] * 2
        found = ResourceSet.decode(flux.rpc("resource.sched-status", {})["all"])
        assert found.nodes == written.nodes
        assert flux.submit(["true"], tasks=2 * CORES_PER_RANK, nodes=2).result().succeeded
    assert not os.path.exists(path)
