"""Not collected by itself: `pytest failing.py` shows what the report of a failure has."""

import pytest_flux


def test_fails(flux_instance: pytest_flux.FluxInstance) -> None:
    job = flux_instance.submit(["sh", "-c", "echo something is wrong >&2; exit 3"])
    assert job.result().succeeded
